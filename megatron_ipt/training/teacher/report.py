"""What the page about a run shows of a distillation: how far the student is from its teacher, in training and held out.

Forward KL is large where the student misses what the teacher says, reverse KL where it says what the teacher would not;
both are shown whichever was trained, because one can fall while the other rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_ipt.stages.page import ORANGE, TEAL, Chart, Column, Curve, Element, Row, Table
from megatron_ipt.stages.readable import number, percent
from megatron_ipt.training.objectives.table import DISTILLATION

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Steps and values by validation set."""

_DIVERGENCES = {"forward_kl": ("forward KL", TEAL), "reverse_kl": ("reverse KL", ORANGE)}
SHOWN = frozenset(f"{DISTILLATION}/{name}" for name in _DIVERGENCES)
"""Metrics that have no small chart, because they are in the chart of this module."""


def elements(
    steps: Sequence[float],
    trained: Mapping[str, Sequence[float]],
    held_out: Mapping[str, Curves],
    losses: Curves,
    tokens_per_step: float,
) -> list[Element]:
    """A chart of both divergences over steps and tokens, and a table of the held-out sets; empty without a teacher.

    Args:
        trained: metrics of objectives by name, a value for each of ``steps``.
        held_out: metrics of objectives by name.
        losses: next-token losses of the student.
    """
    curves = []
    for name, (label, color) in _DIVERGENCES.items():
        metric = f"{DISTILLATION}/{name}"
        if metric in trained:
            curves.append(Curve(label, steps, trained[metric], color))
        for of_set, (x, y) in held_out.get(metric, {}).items():
            curves.append(Curve(f"{label} held out, {of_set}", x, y, color, dashed=True))
    if not curves:
        return []
    chart = Chart(
        "Distance from the teacher",
        curves,
        "step",
        small="nats per token",
        log=True,
        upper_label="tokens",
        upper_per_x=tokens_per_step,
        note="Forward KL: what the teacher says and the student misses. Reverse KL: what the student says and the "
        "teacher would not. Both at temperature 1, whatever was trained.",
    )
    return [chart, _table(held_out, losses)]


def _table(held_out: Mapping[str, Curves], losses: Curves) -> Table:
    columns = (
        "held-out set",
        "first loss",
        "last loss",
        "teacher's loss",
        "forward KL",
        "reverse KL",
        "same top token",
    )
    rows = []
    for of_set, (_, values) in losses.items():
        last = {
            name: metrics[of_set][1][-1]
            for name in ("teacher_loss", "forward_kl", "reverse_kl", "top1_agreement")
            if of_set in (metrics := held_out.get(f"{DISTILLATION}/{name}", {}))
        }
        cells = [number(value) for value in (values[0], values[-1])]
        cells += [number(last.get(name)) for name in ("teacher_loss", "forward_kl", "reverse_kl")]
        rows.append(Row([of_set, *cells, percent(last.get("top1_agreement"))]))
    return Table(
        [Column(name, numeric=index > 0) for index, name in enumerate(columns)],
        rows,
        title="Student and teacher",
        small="next-token loss in nats, at the first and the last validation",
    )
