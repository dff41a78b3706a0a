"""What the page about a run shows of this room: the losses, and whatever else was measured while training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.stages import TOKENS
from megatron_ipt.stages.page import (
    Caution,
    Chart,
    Curve,
    Element,
    Figure,
    Figures,
    Part,
    SmallCharts,
    StageRecord,
    Step,
)
from megatron_ipt.stages.readable import compact, exact, number, percent, plural
from megatron_ipt.tokens.report import source_colors
from megatron_ipt.training.loop.metrics import EVENTS_FILE, METRICS_FILE, read_metrics
from megatron_ipt.training.teacher import report as distillation

LOSS_CHART = "loss"
"""Name of the chart of losses over steps, for reference lines of later stages."""

_SMALL_CHARTS = {
    "lr": ("Learning rate", False),
    "grad_norm": ("Gradient norm", True),
    "tokens_per_second": ("Tokens per second", False),
}
"""Title of a small chart, and whether it may be logarithmic."""
_NOT_SHOWN = {
    "step", "loss", "tokens", "seconds", "batch_size", "tokens_by_source", "tflops", "mfu", "memory_gb", "params_norm",
    "rank_seconds_p50", "rank_seconds_p95", "rank_seconds_max", "slowest_rank",
}  # fmt: skip
"""Measurements that have no small chart. All others have one: those of objectives, and any that are added."""
_OF_OBJECTIVES = "metrics/"
_TWO_LOSSES = "The training loss is the weighted sum of the objectives; held-out losses are next-token losses."


Curves = dict[str, tuple[list[float], list[float]]]
"""Steps and values of each validation set."""


@dataclass
class Measured:
    """Measurements by name; one that was not made is NaN.

    Attributes:
        columns: of the training steps, equally long; a number inside another figure is called ``FIGURE/NAME``.
        valid: losses of the validation sets.
        valid_metrics: metrics of objectives on the validation sets, by metric.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)
    valid: Curves = field(default_factory=dict)
    valid_metrics: dict[str, Curves] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Measured:
        """From the lines of ``metrics.jsonl``."""
        measured = cls()
        steps = 0
        for record in records:
            if "valid" in record:
                measured._add_validation(record)
            else:
                measured._add_step(record, steps)
                steps += 1
        return measured

    def _add_step(self, record: Mapping[str, Any], steps: int) -> None:
        numbers = {name: value for name, value in _flat(record) if _is_number(value)}
        for name in dict.fromkeys([*self.columns, *numbers]):
            self.columns.setdefault(name, [float("nan")] * steps).append(_value(numbers.get(name)))

    def _add_validation(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        for name, loss in record["valid"].items():
            _add_point(self.valid, name, step, loss)
        for name, metrics in record.get("valid_metrics", {}).items():
            for metric, value in metrics.items():
                _add_point(self.valid_metrics.setdefault(metric, {}), name, step, value)


def part(stage: StageRecord) -> Part:
    """The training on the page, finished or not."""
    counts = stage.counts
    measured = Measured.of(read_metrics(stage.folder / METRICS_FILE))
    colors = source_colors(measured.valid, stage.earlier.get(TOKENS))
    elements: list[Element] = [
        _loss_chart(measured, colors, _TWO_LOSSES if _has_several_losses(stage) else ""),
        *_of_distillation(measured),
        SmallCharts(_small_charts(measured)),
        SmallCharts(
            _charts_of_objectives(measured, colors),
            "Objectives",
            "held-out sets in the colors above" if measured.valid_metrics else "",
        ),
    ]
    if not counts:
        return Part(title="Training", elements=elements)
    steps, tokens = plural(counts["steps"], "step"), compact(counts["tokens"])
    parameters = compact(counts["parameters"])
    return Part(
        title="Training",
        step=Step(
            into=f"on {tokens} tokens",
            amount=compact(counts["steps"]),
            unit="step" if counts["steps"] == 1 else "steps",
            detail=f"{counts['precision']}, {plural(counts['ranks'], 'rank')}",
        ),
        headline=f"a model of {parameters} parameters trained on {tokens} tokens in {steps}",
        elements=[
            Figures(
                [
                    Figure("steps", exact(counts["steps"])),
                    Figure("tokens seen", tokens, _passes(stage)),
                    Figure("parameters", parameters),
                    Figure("rank" if counts["ranks"] == 1 else "ranks", exact(counts["ranks"]), counts["precision"]),
                ]
            ),
            *_cautions(stage),
            *elements,
        ],
    )


def _has_several_losses(stage: StageRecord) -> bool:
    teacher = stage.settings.get("distillation", {}).get("teacher", {})
    return bool(stage.settings.get("objectives") or teacher.get("path"))


def _of_distillation(measured: Measured) -> list[Element]:
    columns = measured.columns
    trained = {
        name.removeprefix(_OF_OBJECTIVES): values for name, values in columns.items() if name.startswith(_OF_OBJECTIVES)
    }
    steps = columns.get("step", [])
    return distillation.elements(steps, trained, measured.valid_metrics, measured.valid, _tokens_per_step(columns))


def _passes(stage: StageRecord) -> str:
    """How often the training went through its data."""
    seen, there = stage.counts["tokens"], stage.counts_of(TOKENS).get("train", {}).get("tokens")
    if not there:
        return ""
    return f"{seen / there:,.1f} times the training tokens" if seen >= there else f"{percent(seen / there)} of the data"


def _cautions(stage: StageRecord) -> list[Element]:
    interventions = stage.counts.get("interventions", 0)
    if not interventions:
        return []
    times = "once" if interventions == 1 else f"{exact(interventions)} times"
    return [
        Caution(
            f"Training skipped a step or rolled back to a checkpoint {times} because of a bad loss; see "
            f"`{stage.name}/{EVENTS_FILE}`."
        )
    ]


def _loss_chart(measured: Measured, colors: Mapping[str, str], note: str) -> Chart:
    """Training and held-out loss over steps."""
    columns = measured.columns
    steps = columns.get("step", [])
    curves = [Curve("training", steps, columns.get("loss", [float("nan")] * len(steps)))]
    curves += [Curve(f"held out, {name}", x, y, colors[name]) for name, (x, y) in measured.valid.items()]
    return Chart(
        "Loss",
        curves,
        "step",
        small="nats per token",
        upper_label="tokens",
        upper_per_x=_tokens_per_step(columns),
        note=note,
        name=LOSS_CHART,
    )


def _tokens_per_step(columns: Mapping[str, Sequence[float]]) -> float:
    steps, tokens = columns.get("step"), columns.get("tokens")
    return tokens[-1] / steps[-1] if steps and tokens and tokens[-1] > 0 and steps[-1] > 0 else 0.0


def _small_charts(measured: Measured) -> list[Chart]:
    """Learning rate, gradient norm and throughput, as far as measured, and whatever else is."""
    columns = measured.columns
    charts = []
    for name in dict.fromkeys([*_SMALL_CHARTS, *columns]):
        known = [value for value in columns.get(name, ()) if value == value]
        if known and name.partition("/")[0] not in _NOT_SHOWN and not name.startswith(_OF_OBJECTIVES):
            title, log = _SMALL_CHARTS.get(name, (name.replace("_", " "), False))
            last = compact(round(known[-1])) if name == "tokens_per_second" else number(known[-1], 3)
            charts.append(Chart(title, [Curve(title, columns["step"], columns[name])], "step", f"last {last}", log))
    return charts


def _charts_of_objectives(measured: Measured, colors: Mapping[str, str]) -> list[Chart]:
    """Losses and metrics of the objectives, in training and on the held-out sets."""
    columns = measured.columns
    names = [name.removeprefix(_OF_OBJECTIVES) for name in columns if name.startswith(_OF_OBJECTIVES)]
    charts = []
    for name in dict.fromkeys([*names, *measured.valid_metrics]):
        if name in distillation.SHOWN:
            continue
        trained = columns.get(_OF_OBJECTIVES + name)
        curves = [Curve("training", columns["step"], trained)] if trained else []
        held_out = measured.valid_metrics.get(name, {})
        curves += [Curve(f"held out, {of_set}", x, y, colors[of_set]) for of_set, (x, y) in held_out.items()]
        last = f"last {number(trained[-1], 3)}" if trained else ""
        charts.append(Chart(name.replace("_", " "), curves, "step", last))
    return charts


def _add_point(curves: Curves, name: str, step: float, value: float | None) -> None:
    x, y = curves.setdefault(name, ([], []))
    x.append(step)
    y.append(_value(value))


def _flat(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Names and values; values by name inside another one as ``outer/inner``."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", inner) for part, inner in value.items())
        else:
            yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value(value: float | None) -> float:
    return float("nan") if value is None else float(value)
