"""The corpus of ``tools/damage_documents.py``: as many damaged texts as asked for, no longer than others, labelled."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def made(folder: Path, *more: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    squad = folder / "squad.json"
    contexts = [
        f"Article {n} is about a town. " + f"It has {n} bridges over its river, and {n} mills. " * 6 for n in range(120)
    ]
    squad.write_text(json.dumps({"data": [{"paragraphs": [{"context": text} for text in contexts]}]}))
    words = folder / "wiki.txt"
    words.write_text(
        "\n".join([" = Heading = ", *(f"A lake , number {n} , of some depth ( {n} m ) . " * 8 for n in range(120))])
    )
    arguments = [
        "--squad",
        str(squad),
        "--wikitext",
        str(words),
        "--documents",
        "200",
        "--out",
        str(folder / "out"),
        *more,
    ]
    program = REPOSITORY / "tools/damage_documents.py"
    subprocess.run([sys.executable, str(program), *arguments], check=True, capture_output=True)
    read = [
        [json.loads(line) for line in (folder / "out" / name).read_text().splitlines()]
        for name in ("documents.jsonl", "labels.jsonl")
    ]
    return {row["id"]: row for row in read[0]}, {row["id"]: row["label"] for row in read[1]}


def test_half_is_damaged_and_labelled(tmp_path: Path) -> None:
    documents, labels = made(tmp_path)
    assert Counter(labels.values()) == {
        "good": 100,
        **dict.fromkeys(("shuffled", "repeated", "boilerplate", "foreign"), 25),
    }
    assert documents.keys() == labels.keys() and Counter(row["domain"] for row in documents.values()) == {
        "squad": 100,
        "wikitext": 100,
    }
    lengths = {
        label: statistics.median(len(documents[name]["text"]) for name, own in labels.items() if own == label)
        for label in set(labels.values())
    }
    assert max(lengths.values()) < 1.2 * min(lengths.values())
    repeated = next(documents[name]["text"] for name, label in labels.items() if label == "repeated")
    assert len(set(repeated.split())) < 10 < len(repeated.split())
    # Damage is not to be seen from where a document stands.
    first = list(labels.values())[:100]
    assert 30 < first.count("good") < 70
    # WikiText writes spaces around punctuation, which would give its documents away.
    assert any("A lake, number" in row["text"] for row in documents.values())


def test_the_seed_decides(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert one == two
    assert made(tmp_path / "three", "--seed", "1") != one
