"""Benchmarks and curves as the evaluation leaves them, with figures that can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.files import read_json, write_json

NAMES = (
    "piqa", "hellaswag", "winogrande", "social_iqa", "arc_easy", "arc_challenge", "openbookqa", "boolq", "mmlu",
)  # fmt: skip


def score(accuracy: float, questions: int = 1000, shots: int | None = 5, **parts: Any) -> dict[str, Any]:
    metrics = {"acc": {"value": accuracy, "stderr": 0.0125}, "acc_norm": {"value": accuracy + 0.05, "stderr": 0.01}}
    return {
        "shots": shots, "questions": questions, "metric": "acc", "accuracy": accuracy, "stderr": 0.0125,
        "metrics": metrics, "subtasks": parts,
    }  # fmt: skip


def harness(shift: float) -> dict[str, Any]:
    """Task number n at 0.25 + 0.02 n + ``shift``, so that the mean of nine is 0.33 + ``shift``."""
    tasks = {name: score(0.25 + 0.02 * number + shift) for number, name in enumerate(NAMES)}
    tasks["mmlu"]["subtasks"] = {"mmlu_anatomy": score(0.3, 135), "mmlu_virology": score(0.4, 166)}
    return {"library": "lm-eval 0.4.13", "dtype": "float16", "add_bos_token": True, "limit": None, "tasks": tasks}


def add_curves(folder: Path, points: int = 6) -> None:
    """Adds benchmarks and ``points`` checkpoints to the evaluation in ``folder``."""
    checkpoints = []
    for number in range(1, points + 1):
        checkpoints.append(
            {
                "checkpoint": f"iter_{50 * number:07d}",
                "iteration": 50 * number,
                "tokens": 204_800 * number,
                "perplexity": {
                    "augmented": {"loss": 3.0 + 2.4 / number, "tokens": 2_699},
                    "raw": {"loss": 3.9 + 1.8 / number, "tokens": 1_299},
                },
                "questions": {"unseen": {"accuracy": 0.2 + 0.05 * number}},
                "harness": harness(0.01 * number),
            }
        )
    write_json(folder / "curves.json", {"checkpoints": checkpoints})
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", results | {"harness": checkpoints[-1]["harness"]})
