"""Benchmark presets, and the notation ``task:shots``.

The preset ``paper`` is the evaluation of the Instruction Pre-Training paper (arXiv:2406.14491). Its models see BOS at
the start of every document in training, so its results need ``add_bos_token``. Nothing is sampled: the option with the
highest likelihood is the answer. Task names are those of lm-evaluation-harness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_ipt.errors import RecipeError

_NOTATION = re.compile(r"([^:\s]+)(?::(\d+))?")


@dataclass(frozen=True)
class Benchmark:
    """A task and its number of few-shot examples; ``shots`` None: as in the task file, else 0."""

    task: str
    shots: int | None = None


PRESETS: dict[str, tuple[Benchmark, ...]] = {
    "none": (),
    "paper": (
        Benchmark("piqa", 0),
        Benchmark("hellaswag", 0),
        Benchmark("winogrande", 0),
        Benchmark("social_iqa", 5),
        Benchmark("arc_easy", 5),
        Benchmark("arc_challenge", 5),
        Benchmark("openbookqa", 5),
        Benchmark("boolq", 5),
        Benchmark("mmlu", 5),
    ),
}


def parse_benchmark(text: str) -> Benchmark:
    """Parses ``arc_easy`` or ``arc_easy:5``.

    Raises:
        RecipeError: ``text`` has neither form.
    """
    match = _NOTATION.fullmatch(text.strip())
    if match is None:
        raise RecipeError(f"{text!r}: expected TASK or TASK:SHOTS, e.g. arc_easy:5")
    return Benchmark(match[1], None if match[2] is None else int(match[2]))


def benchmarks_of(preset: str, tasks: list[str]) -> list[Benchmark]:
    """Benchmarks of the preset, then ``tasks``; if a task is named twice, the later number of shots applies.

    Raises:
        RecipeError: the preset does not exist, or a task is not TASK or TASK:SHOTS.
    """
    if preset not in PRESETS:
        raise RecipeError(f"{preset}: no such preset; valid: {', '.join(PRESETS)}")
    chosen = {benchmark.task: benchmark for benchmark in PRESETS[preset]}
    chosen |= {benchmark.task: benchmark for benchmark in map(parse_benchmark, tasks)}
    return list(chosen.values())
