"""Formats benchmark results as a text table."""

from __future__ import annotations

from typing import Any

_HEAD = ("task", "shots", "questions", "metric", "score", "± error", "per length")


def render(result: dict[str, Any]) -> str:
    """Table of a result of :func:`megatron_ipt.evaluation.harness.run.run`, scores in percent.

    ``± error`` is the standard error; ``per length`` is ``acc_norm``: options ranked by likelihood per character.
    """
    rows: list[tuple[str, ...]] = [_HEAD]
    for name, figures in result["tasks"].items():
        rows.append(_row(name, figures))
        rows += [_row(f"  {task}", values) for task, values in figures["subtasks"].items()]
    if len(result["tasks"]) > 1:
        mean = sum(figures["accuracy"] for figures in result["tasks"].values()) / len(result["tasks"])
        rows.append(("mean", "", "", "", _percent(mean), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    # Text left-aligned, numbers right-aligned.
    left = (0, 3)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    shots = "" if figures["shots"] is None else str(figures["shots"])
    per_length = figures["metrics"].get("acc_norm", {}).get("value")
    return (
        name,
        shots,
        f"{figures['questions']:,}",
        figures["metric"],
        _percent(figures["accuracy"]),
        _percent(figures["stderr"]),
        _percent(per_length),
    )


def _percent(share: float | None) -> str:
    return "" if share is None or share != share else f"{100 * share:.2f}"
