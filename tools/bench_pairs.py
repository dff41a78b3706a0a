#!/usr/bin/env python3
"""Benchmarks parsing of completions and rendering of documents, single-threaded.

    python tools/bench_pairs.py parsing      # completions with five pairs: markers, types, filters
    python tools/bench_pairs.py rendering    # documents with one text and five pairs, by kind of pair

Reports the minimum CPU time of several rounds, because other load only adds time. Texts and pairs come from the sample
corpus; there is no I/O while measuring.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figures, add_option, number  # noqa: E402

from megatron_ipt.augment.render import render  # noqa: E402
from megatron_ipt.augment.templates import load_templates  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig, filter_pairs  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.marks import render_pairs  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer  # noqa: E402
from megatron_ipt.synthesis.pairs import Chain, Example, Pair  # noqa: E402

PAIRS = 5
PARSING_BAR, RENDERING_BAR = 100_000, 25_000
KINDS: dict[str, Callable[[str, int], Pair]] = {
    "free-form": lambda text, n: Pair(f"What does sentence {n} of the passage say?", text),
    "multiple choice": lambda text, n: Pair(
        f"Which of these is sentence {n} of the passage?", text, options=(f"Not {n}", text, "All of it", "None of it")
    ),
    "reasoning": lambda text, n: Pair(
        f"How many words has sentence {n}?", str(len(text.split())), reasoning=f"Count them one by one: {text}"
    ),
}


def texts() -> list[str]:
    lines = (REPOSITORY / "examples/corpus/passages.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def examples(make: Callable[[str, int], Pair]) -> list[Example]:
    """Sample texts, each with five pairs about its sentences."""
    found = []
    for number_of_text, text in enumerate(texts()):
        sentences = itertools.cycle([part.strip() for part in text.split(". ") if part.strip()])
        pairs = [make(next(sentences), n) for n in range(PAIRS)]
        found.append(Example(f"d{number_of_text}", text, f"Passage {number_of_text}", pairs))
    return found


def rate(work: Callable[[Any], Any], items: list[Any], seconds: float) -> float:
    """Items per CPU-second in the fastest round over all of ``items``."""
    fastest = float("inf")
    end = time.process_time() + seconds
    while time.process_time() < end or fastest == float("inf"):
        start = time.process_time()
        for item in items:
            work(item)
        fastest = min(fastest, time.process_time() - start)
    return len(items) / fastest


def parsing(figures: Figures, seconds: float) -> None:
    config = FilterConfig()
    for kind, make in KINDS.items():
        written = [(example.text, render_pairs(example.pairs)) for example in examples(make)] * 10
        if any(len(parse_answer(answer)[0]) != PAIRS for _, answer in written):
            raise SystemExit(f"{kind}: a completion did not parse as {PAIRS} pairs")
        parsed = rate(lambda both: parse_answer(both[1]), written, seconds)
        figures.add(f"completions of five pairs parsed, {kind}", parsed, "per CPU-s", PARSING_BAR)
        filtered = rate(lambda both: filter_pairs(both[0], parse_answer(both[1])[0], config), written, seconds)
        figures.add(f"completions of five pairs parsed and filtered, {kind}", filtered, "per CPU-s")


def rendering(figures: Figures, seconds: float) -> None:
    templates = load_templates()
    for kind, make in KINDS.items():
        found = examples(make)
        # The layout of a document depends on its id.
        chains = [Chain(f"{example.id}-{turn}", "train", [example]) for turn in range(20) for example in found]
        rendered = rate(lambda chain: render(chain, templates, 1), chains, seconds)
        figures.add(f"documents of five pairs rendered, {kind}", rendered, "per CPU-s", RENDERING_BAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parsing", "rendering"))
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU-seconds per measurement")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    (parsing if arguments.what == "parsing" else rendering)(figures, arguments.seconds)
    for figure in figures:
        print(f"{figure.name:<60} {number(figure.value):>10} {figure.unit}")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
