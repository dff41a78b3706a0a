"""Benchmarks and curves over checkpoints, worked into the figures that the page shows. Pure, as figures.py is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ipt.readable import MISSING, number
from megatron_ipt.report.charts import Chart, Curve
from megatron_ipt.report.figures import Run, set_colors

_LEAST_POINTS = 2


@dataclass(frozen=True)
class BenchmarkRow:
    """Scores in percent, as text; ``parts`` are the tasks of a group."""

    name: str
    shots: str
    questions: int
    metric: str
    score: str
    error: str
    per_length: str
    parts: tuple[BenchmarkRow, ...] = ()


def benchmark_rows(run: Run) -> list[BenchmarkRow]:
    """The benchmarks of the exported model, in the order of the recipe."""
    tasks = run.results.get("harness", {}).get("tasks", {})
    return [_row(name, figures) for name, figures in tasks.items()]


def mean_score(run: Run) -> str:
    """Mean over the benchmarks, a group counting once; empty for fewer than two."""
    scores = [figures["accuracy"] for figures in run.results.get("harness", {}).get("tasks", {}).values()]
    return _percent(sum(scores) / len(scores)) if len(scores) > 1 else ""


@dataclass(frozen=True)
class QuestionRow:
    """Questions about unseen texts; shares in percent, as text."""

    name: str
    questions: int
    loss: str
    first: str
    first_per_byte: str
    chance: str


def question_rows(run: Run) -> list[QuestionRow]:
    """What the exported model knew of the answers, by set of questions."""
    return [
        QuestionRow(
            name,
            figures["questions"],
            number(figures["answer_loss"], 4),
            *(_percent(figures[key]) for key in ("accuracy", "accuracy_per_byte", "chance")),
        )
        for name, figures in run.results.get("questions", {}).items()
    ]


def how_measured(run: Run) -> str:
    """With what the benchmarks were measured."""
    harness = run.results.get("harness", {})
    parts = [str(harness.get("library", "")), str(harness.get("dtype", ""))]
    parts.append("BOS before every request" if harness.get("add_bos_token") else "no BOS")
    if harness.get("limit"):
        parts.append(f"only the first {harness['limit']:,} questions of each task")
    return ", ".join(filter(None, parts))


def loss_curves(run: Run) -> Chart | None:
    """Held-out losses against tokens trained on; None where fewer than two checkpoints were measured."""
    points = _points(run)
    names = list(dict.fromkeys(name for point in points for name in point.get("perplexity", {})))
    if len(points) < _LEAST_POINTS or not names:
        return None
    colors = set_colors(names)
    curves = [Curve(name, *_losses(points, name), colors[name]) for name in names]
    return Chart("checkpoints-loss", curves, "tokens")


def accuracy_curves(run: Run) -> list[tuple[str, str, Chart]]:
    """(title, last value, chart) of every benchmark and question set in percent; first their mean, if there are two."""
    points = _points(run)
    if len(points) < _LEAST_POINTS:
        return []
    measured = [_accuracies(point) for point in points]
    names = list(dict.fromkeys(name for accuracies in measured for name in accuracies))
    found = []
    if len(names) > 1:
        means = [_mean_of(accuracies, names) for accuracies in measured]
        found.append(_accuracy_chart("mean", "Mean of all", points, means, "training"))
    for place, name in enumerate(names):
        values = [accuracies.get(name, float("nan")) for accuracies in measured]
        found.append(_accuracy_chart(str(place), name, points, values, "augmented"))
    return found


def _accuracy_chart(
    name: str, title: str, points: list[dict[str, Any]], values: list[float], color: str
) -> tuple[str, str, Chart]:
    shares = [100 * value for value in values]
    tokens = [float(point["tokens"]) for point in points]
    return title, _percent(values[-1]), Chart(f"accuracy-{name}", [Curve(title, tokens, shares, color)], "tokens")


def _accuracies(point: Mapping[str, Any]) -> dict[str, float]:
    tasks = point.get("harness", {}).get("tasks", {})
    found = {name: figures["accuracy"] for name, figures in tasks.items()}
    for name, figures in point.get("questions", {}).items():
        if figures.get("accuracy") is not None:
            found[name if name not in found else f"questions {name}"] = figures["accuracy"]
    return found


def _mean_of(accuracies: Mapping[str, float], names: list[str]) -> float:
    """A mean over other tasks than the other points' would be no curve."""
    if any(name not in accuracies for name in names):
        return float("nan")
    return sum(accuracies.values()) / len(names)


def _points(run: Run) -> list[dict[str, Any]]:
    return sorted(run.curves.get("checkpoints", ()), key=lambda point: point["tokens"])


def _losses(points: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """(tokens, losses) of one held-out set, where it was measured."""
    measured = [point for point in points if name in point.get("perplexity", {})]
    losses = [point["perplexity"][name]["loss"] for point in measured]
    return [float(point["tokens"]) for point in measured], [float("nan") if x is None else x for x in losses]


def _row(name: str, figures: Mapping[str, Any]) -> BenchmarkRow:
    return BenchmarkRow(
        name,
        MISSING if figures["shots"] is None else str(figures["shots"]),
        figures["questions"],
        figures["metric"],
        _percent(figures["accuracy"]),
        _percent(figures["stderr"]),
        _percent(figures["metrics"].get("acc_norm", {}).get("value")),
        tuple(_row(task, part) for task, part in figures["subtasks"].items()),
    )


def _percent(share: float | None) -> str:
    return MISSING if share is None or share != share else f"{100 * share:.1f}"
