#!/usr/bin/env python3
"""Makes a corpus half of whose documents are damaged, with labels: do the scores of a selection find the damage?

    python tools/damage_documents.py --squad xquad.en.json --gsm8k gsm8k.train.jsonl --wikitext wikitext2.valid.txt \\
        --documents 2668 --out trial

Writes ``OUT/documents.jsonl`` (id, text, domain) and ``OUT/labels.jsonl`` for ``selection.labels``: ``good``, or how a
text was damaged. A damaged text takes the place of a document and is about as long, so length tells nothing:

    shuffled      its words in another order
    repeated      its first sentence, over and over
    boilerplate   notices, menus and offers as web pages have them
    foreign       sentences in German, French, Spanish or Italian, in a corpus in English

``--held-out N`` also writes ``OUT/held_out.jsonl``, N undamaged texts that are in no document; ``--target N``
``OUT/target.jsonl``, N others.

Everything follows from ``--seed``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from megatron_ipt.files import atomic_open  # noqa: E402

SHORTEST = 200
"""Characters; shorter texts are left out."""
_NOTICES = (
    "Click here to read more.", "Sign up for our free newsletter today!", "All rights reserved.",
    "By using this site you accept our cookie policy.", "Share this page on your favourite network.",
    "Home | About | Contact | Imprint", "You must be logged in to post a comment.", "Add to cart",
    "Free shipping on orders over {n} euros.", "Page {n} of {m}", "Last updated {n} days ago by admin.",
    "Copyright {year} {name} Ltd.", "Back to top", "Showing {n} of {m} results, sorted by relevance.",
    "Subscribe now and save {n} percent on your first order.", "Download our app from the store of your choice.",
    "This item is currently out of stock.", "Previous article | Next article",
    "Enter your e-mail address to receive {n} offers a week.",
    "Customers who bought this also bought {m} other items.", "Terms and conditions apply; see our privacy notice.",
    "Posted in News by {name} on day {n}, {year}.", "Reply | Report | Permalink",
    "Your session will expire in {n} minutes.", "Rated {n} out of {m} by {name} and others.",
    "Loading comments, please wait...",
)  # fmt: skip
_NAMES = ("Alder", "Birch", "Cedar", "Elm", "Hazel", "Linden", "Maple", "Rowan")
_LANGUAGES = (
    (
        (
            "Der Bäcker", "Die Lehrerin", "Mein Nachbar", "Das Orchester", "Die Stadt", "Ein junger Fischer",
            "Der Ausschuss", "Unsere Großmutter",
        ),
        (
            "verkauft", "beschreibt", "repariert", "sucht", "findet", "erwähnt", "betrachtet", "vergisst",
        ),
        (
            "frisches Brot", "den alten Fluss", "eine lange Liste", "das gelbe Fahrrad", "viele Fragen",
            "die Brücke aus Holz", "einen Brief", "kleine Steine",
        ),
        (
            "am frühen Morgen", "hinter dem Bahnhof", "trotz des Regens", "seit vielen Jahren", "ohne ein Wort",
            "im nächsten Sommer", "auf dem Marktplatz",
        ),
    ),
    (
        (
            "Le boulanger", "La voisine", "Un vieux marin", "Mon frère", "La bibliothèque", "Le conseil",
            "Une étudiante", "Le jardinier",
        ),
        (
            "vend", "cherche", "décrit", "répare", "oublie", "regarde", "trouve", "prépare",
        ),
        (
            "du pain frais", "la longue lettre", "un vélo rouge", "les petites pierres", "une réponse simple",
            "le pont de bois", "des fleurs blanches",
        ),
        (
            "près de la gare", "malgré la pluie", "depuis deux ans", "sans dire un mot", "pendant l'été",
            "au bord du lac", "chaque matin",
        ),
    ),
    (
        (
            "El panadero", "La maestra", "Un pescador", "Mi hermana", "El ayuntamiento", "La orquesta",
            "Nuestro vecino", "Una niña",
        ),
        (
            "vende", "describe", "busca", "arregla", "olvida", "mira", "encuentra", "prepara",
        ),
        (
            "pan recién hecho", "una carta larga", "la bicicleta verde", "muchas preguntas", "el puente de madera",
            "unas piedras pequeñas",
        ),
        (
            "cerca de la estación", "a pesar de la lluvia", "desde hace años", "sin decir nada", "en verano",
            "junto al río", "cada mañana",
        ),
    ),
    (
        (
            "Il fornaio", "La maestra", "Un pescatore", "Mia sorella", "Il comune", "L'orchestra",
            "Il nostro vicino", "Una bambina",
        ),
        (
            "vende", "descrive", "cerca", "ripara", "dimentica", "guarda", "trova", "prepara",
        ),
        (
            "il pane fresco", "una lunga lettera", "la bicicletta verde", "molte domande", "il ponte di legno",
            "alcune piccole pietre",
        ),
        (
            "vicino alla stazione", "nonostante la pioggia", "da molti anni", "senza dire nulla", "in estate",
            "lungo il fiume", "ogni mattina",
        ),
    ),
)  # fmt: skip


def shuffled(text: str, draw: random.Random) -> str:
    words = text.split()
    draw.shuffle(words)
    return " ".join(words)


def repeated(text: str, draw: random.Random) -> str:
    first = re.split(r"(?<=[.!?])\s+", text.strip())[0]
    return _until(lambda: first, len(text))


def boilerplate(text: str, draw: random.Random) -> str:
    def notice() -> str:
        return draw.choice(_NOTICES).format(
            n=draw.randint(2, 60), m=draw.randint(61, 900), year=draw.randint(1999, 2024), name=draw.choice(_NAMES)
        )

    return _until(notice, len(text), "\n")


def foreign(text: str, draw: random.Random) -> str:
    parts = draw.choice(_LANGUAGES)
    return _until(lambda: " ".join(map(draw.choice, parts)) + ".", len(text))


def _until(sentence: Callable[[], str], length: int, between: str = " ") -> str:
    made = [sentence()]
    while sum(map(len, made)) + len(made) < length:
        made.append(sentence())
    return between.join(made)


DAMAGES: dict[str, Callable[[str, random.Random], str]] = {
    "shuffled": shuffled,
    "repeated": repeated,
    "boilerplate": boilerplate,
    "foreign": foreign,
}


def squad_texts(path: Path) -> Iterator[str]:
    for article in json.loads(path.read_text())["data"]:
        yield from (paragraph["context"] for paragraph in article["paragraphs"])


def gsm8k_texts(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        record = json.loads(line)
        # <<48/2=24>> are notes for a calculator.
        yield re.sub(r"<<.*?>>", "", f"{record['question']}\n{record['answer'].replace('#### ', 'The answer is ')}.")


def wikitext_texts(path: Path) -> Iterator[str]:
    """Paragraphs; headings are shorter than :data:`SHORTEST`."""
    for line in path.read_text().splitlines():
        yield re.sub(
            r" ([,.;:)%'])", r"\1", line.replace(" @-@ ", "-").replace(" @,@ ", ",").replace("( ", "(")
        ).strip()


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "squad": squad_texts,
    "gsm8k": gsm8k_texts,
    "wikitext": wikitext_texts,
}


def documents_of(sources: dict[str, Path], counts: list[int], draw: random.Random) -> list[list[dict[str, str]]]:
    """So many texts for each of ``counts``, of each source as many as there are, taking turns."""
    pools = {}
    for name, path in sources.items():
        pools[name] = [text for text in READERS[name](path) if len(text) >= SHORTEST]
        draw.shuffle(pools[name])
    parts = []
    for count in counts:
        chosen: list[dict[str, str]] = []
        while len(chosen) < count and any(pools.values()):
            for name, pool in pools.items():
                if pool and len(chosen) < count:
                    chosen.append({"text": pool.pop(), "domain": name})
        if len(chosen) < count:
            raise SystemExit(
                f"{count - len(chosen):,} texts of {SHORTEST} characters or more are missing; ask for fewer"
            )
        parts.append(chosen)
    return parts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in READERS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"texts in the format of {name}")
    parser.add_argument("--documents", type=int, default=2000, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="undamaged texts besides them")
    parser.add_argument("--target", type=int, default=0, metavar="N", help="undamaged texts besides those")
    parser.add_argument("--share", type=float, default=0.5, metavar="S", help="that is damaged (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    sources = {name: path for name in READERS if (path := getattr(arguments, name)) is not None}
    if not sources:
        parser.error(f"give at least one of {', '.join(f'--{name}' for name in READERS)}")
    draw = random.Random(arguments.seed)
    wanted = [arguments.documents, arguments.held_out, arguments.target]
    documents, *others = documents_of(sources, wanted, draw)
    draw.shuffle(documents)
    kinds = list(DAMAGES)
    counts: Counter[str] = Counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents):
        document["label"] = "good"
        if number < arguments.share * len(documents):
            document["label"] = kinds[number % len(kinds)]
            document["text"] = DAMAGES[document["label"]](document["text"], draw)
    draw.shuffle(documents)
    with (
        atomic_open(arguments.out / "documents.jsonl", "w") as texts,
        atomic_open(arguments.out / "labels.jsonl", "w") as labels,
    ):
        for number, document in enumerate(documents):
            name = f"{document['domain']}-{number}"
            label = document.pop("label")
            counts[label] += 1
            texts.write(json.dumps({"id": name, **document}, ensure_ascii=False) + "\n")
            labels.write(json.dumps({"id": name, "label": label}) + "\n")
    for name, further in zip(("held_out", "target"), others):
        if further:
            with atomic_open(arguments.out / f"{name}.jsonl", "w") as texts:
                for number, document in enumerate(further):
                    record = {"id": f"{name}-{number}", **document}
                    texts.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{arguments.out}: {', '.join(f'{count:,} {label}' for label, count in counts.items())}")


if __name__ == "__main__":
    main()
