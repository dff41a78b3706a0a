"""Curves over checkpoints for the page about a run: how losses and accuracies changed with the tokens trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ipt.stages.page import GREY, TEAL, Chart, Curve, SmallCharts, StageRecord
from megatron_ipt.stages.readable import MISSING
from megatron_ipt.tokens.report import source_colors

_MIN_POINTS = 2


def loss_chart(points: Sequence[Mapping[str, Any]], tokens: StageRecord | None) -> Chart:
    """Held-out losses by set; empty if fewer than two checkpoints were measured.

    Args:
        points: from ``curves.json``, in the order of their tokens.
        tokens: stage that made the token data, for colors.
    """
    names = list(dict.fromkeys(name for point in points for name in point.get("perplexity", {})))
    colors = source_colors(names, tokens)
    enough = names if len(points) >= _MIN_POINTS else []
    return Chart(
        "Held-out loss of each checkpoint",
        [Curve(name, *_losses(points, name), colors[name]) for name in enough],
        "tokens",
        small="nats per token, against tokens trained on",
    )


def accuracy_charts(points: Sequence[Mapping[str, Any]]) -> SmallCharts:
    """Every benchmark and question set in percent, their mean first if there are two or more."""
    measured = [_accuracies(point) for point in points] if len(points) >= _MIN_POINTS else []
    names = list(dict.fromkeys(name for accuracies in measured for name in accuracies))
    curves = {name: [accuracies.get(name, float("nan")) for accuracies in measured] for name in names}
    means = [_mean_of(accuracies, names) for accuracies in measured]
    charts = [_accuracy_chart("Mean of all", points, means, GREY)] if len(names) > 1 else []
    charts += [_accuracy_chart(name, points, values, TEAL) for name, values in curves.items()]
    return SmallCharts(charts, "Accuracy of each checkpoint", "percent, against tokens trained on")


def _accuracy_chart(title: str, points: Sequence[Mapping[str, Any]], values: list[float], color: str) -> Chart:
    tokens = [float(point["tokens"]) for point in points]
    last = MISSING if values[-1] != values[-1] else f"{100 * values[-1]:.1f}"
    return Chart(title, [Curve(title, tokens, [100 * value for value in values], color)], "tokens", f"last {last}")


def _accuracies(point: Mapping[str, Any]) -> dict[str, float]:
    tasks = point.get("harness", {}).get("tasks", {})
    found = {name: figures["accuracy"] for name, figures in tasks.items()}
    for name, figures in point.get("questions", {}).items():
        if figures.get("accuracy") is not None:
            found[name if name not in found else f"questions {name}"] = figures["accuracy"]
    return found


def _mean_of(accuracies: Mapping[str, float], names: list[str]) -> float:
    """NaN unless all were measured: a mean over other tasks than those of the other points would make no curve."""
    if any(name not in accuracies for name in names):
        return float("nan")
    return sum(accuracies.values()) / len(names)


def _losses(points: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """(tokens, losses) of one held-out set, where it was measured."""
    measured = [point for point in points if name in point.get("perplexity", {})]
    losses = [point["perplexity"][name]["loss"] for point in measured]
    return [float(point["tokens"]) for point in measured], [float("nan") if x is None else x for x in losses]
