#!/usr/bin/env python3
"""Benchmarks decontamination on one core: speed, planted test questions found, near-duplicate questions.

    python tools/bench_decontamination.py                                # the sample corpus, its sentences shuffled
    python tools/bench_decontamination.py --texts my_texts.txt           # real text, UTF-8

Speeds are in CPU-seconds, because other load only adds time. Test questions are rows of words of the text in another
order, 5 to 60 words long; a part of them is planted in texts, and what is found is held against what was planted.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figures, add_option, number  # noqa: E402

from megatron_ipt.decontamination.config import QUESTION_KEYS  # noqa: E402
from megatron_ipt.decontamination.index import Index, Question, batches  # noqa: E402
from megatron_ipt.decontamination.loose_files import decontaminate_files  # noqa: E402
from megatron_ipt.synthesis.near_duplicates import NearDuplicates  # noqa: E402
from megatron_ipt.synthesis.words import words_of  # noqa: E402

SPEED_BAR = 20.0
DOCUMENT_CHARACTERS, PAIR_WORDS = 3000, 20


def documents_of(text: str, megabytes: float, rng: random.Random) -> list[str]:
    """Documents of about 3,000 characters: sentences of ``text`` in a random order."""
    sentences = [part for part in text.replace("\n", " \n").split(". ") if part.strip()]
    found, size = [], 0
    while size < megabytes * 1e6:
        document = ""
        while len(document) < DOCUMENT_CHARACTERS:
            document += f"{rng.choice(sentences)}. "
        found.append(document)
        size += len(document.encode())
    return found


def questions_of(words: list[str], count: int, rng: random.Random) -> list[str]:
    return [" ".join(rng.choices(words, k=rng.randint(5, 60))) + "?" for _ in range(count)]


def plant(documents: list[str], questions: list[str], rng: random.Random) -> dict[int, int]:
    """Puts as many words of a question as the rule asks for into every tenth document: question by document."""
    planted = {}
    for place in range(0, len(documents), 10):
        question = rng.randrange(len(questions))
        words = questions[question].rstrip("?").split()
        length = min(13, len(words))
        start = rng.randint(0, len(words) - length)
        row = " ".join(words[start : start + length])
        at = documents[place].find(" ", rng.randrange(len(documents[place]) // 2))
        documents[place] = f"{documents[place][:at]}. {row.upper()}, {documents[place][at:]}"
        planted[place] = question
    return planted


def found_in(index: Index, texts: list[str]) -> dict[int, set[int]]:
    found = {}
    for batch in batches((place, [text]) for place, text in enumerate(texts)):
        for (place, _), matches in zip(batch, index.find([text for _, (text,) in batch])):
            if matches:
                found[place] = {match.question.number for match in matches}
    return found


def fastest(work: Callable[[], object], rounds: int) -> float:
    """CPU-seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure(arguments: argparse.Namespace, figures: Figures) -> None:
    rng = random.Random(arguments.seed)
    if arguments.texts:
        text = Path(arguments.texts).read_text("utf-8")
    else:
        lines = (REPOSITORY / "examples/corpus/passages.jsonl").read_text("utf-8").splitlines()
        text = "\n".join(json.loads(line)["text"] for line in lines)
    documents = documents_of(text, arguments.megabytes, rng)
    questions = questions_of(words_of(text), arguments.questions, rng)
    planted = plant(documents, questions, rng)
    start = time.process_time()
    index = Index(Question("test", place, question) for place, question in enumerate(questions))
    figures.add(f"index of {len(questions):,} test questions built", time.process_time() - start, "CPU-s")
    pairs = [" ".join(document.split()[:PAIR_WORDS]) for document in documents for _ in range(20)]
    for name, texts in (("documents", documents), ("pairs of 20 words", pairs)):
        size = sum(len(text.encode()) for text in texts) / 1e6
        seconds = fastest(lambda texts=texts: found_in(index, texts), arguments.rounds)
        figures.add(
            f"{name} compared with {len(questions):,} test questions", size / seconds, "MB per CPU-s", SPEED_BAR
        )
    found = found_in(index, documents)
    recalled = sum(question in found.get(place, ()) for place, question in planted.items())
    figures.add("planted test questions found", 100 * recalled / len(planted), "%", 100)
    right = sum(place in planted for place in found)
    figures.add("of what was found, planted", 100 * right / len(found), "%", 99)
    with tempfile.TemporaryDirectory() as name:
        data, tests = Path(name) / "data.jsonl", Path(name) / "tests.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        tests.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
        size = data.stat().st_size / 1e6
        start = time.process_time()
        decontaminate_files([str(data)], [str(tests)], Path(name) / "clean", QUESTION_KEYS, 13)
        figures.add("the command, from JSON Lines to JSON Lines", size / (time.process_time() - start), "MB per CPU-s")
    short = questions_of(words_of(text), arguments.near, random.Random(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen: NearDuplicates[int] = NearDuplicates()
    start = time.process_time()
    for _ in seen.find_all(enumerate(short)):
        pass
    figures.add("questions compared for near-duplicates", len(short) / (time.process_time() - start), "per CPU-s")
    kilobytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / len(seen)
    figures.add("memory of a kept question", kilobytes, "kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", metavar="FILE", help="plain text to make documents of")
    parser.add_argument("--megabytes", type=float, default=50, help="size of the documents")
    parser.add_argument("--questions", type=int, default=20_000, help="test questions")
    parser.add_argument("--near", type=int, default=100_000, help="questions for near-duplicates")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    measure(arguments, figures)
    for figure in figures:
        print(f"{figure.name:<60} {number(figure.value):>10} {figure.unit}")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
