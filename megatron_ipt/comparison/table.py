"""What the runs measured, by arm: means over seeds, their spread, and the differences from the baseline.

A difference is taken seed by seed and then averaged, because arms of one seed share initial weights and so part of
their luck. With three seeds an interval is wide; the spread is shown as it is, the standard deviation over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """Something measured of every run.

    Attributes:
        key: in the results.
        title: with its unit.
        higher_is_better: whether more is better.
        percent: shown as a percentage.
        reference: key of the level without any knowledge, where there is one.
    """

    key: str
    title: str
    higher_is_better: bool = False
    percent: bool = False
    reference: str = ""

    def text(self, value: float, signed: bool = False) -> str:
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.1f} %" if self.percent else f"{value:{sign}.3f}"


MEASURES = (
    Measure("answer_loss", "loss of held-out answers (nats per token)"),
    Measure("accuracy", "right answer ranks first", True, True, "chance"),
    Measure("accuracy_per_byte", "right answer ranks first, per byte", True, True, "chance"),
    Measure("text_loss", "loss of held-out plain text (nats per token)"),
)


@dataclass(frozen=True)
class Cell:
    """One measure of one arm.

    Attributes:
        values: by seed.
        difference: mean over seeds of this arm less the baseline; None for the baseline.
        difference_deviation: standard deviation of that difference over seeds.
    """

    values: tuple[float, ...]
    difference: float | None = None
    difference_deviation: float = 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        return deviation(self.values)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation over seeds (n - 1); 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def measured(results: Mapping[str, Any], counts: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one run, from its evaluation's ``results.json`` and its training's counts."""
    questions = results["questions"]["held_out"]
    row = {name: questions[name] for name in ("answer_loss", "accuracy", "accuracy_per_byte", "chance")}
    if "plain" in results["perplexity"]:
        row["text_loss"] = results["perplexity"]["plain"]["loss"]
    return {**row, "questions": questions["ranked"], "tokens": counts["tokens"], "parameters": counts["parameters"]}


def cells(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Cell]]:
    """By measure and arm.

    Args:
        rows: by arm, one of :func:`measured` a seed, seeds in the same order; the first arm is the baseline.
    """
    baseline = next(iter(rows))
    table: dict[str, dict[str, Cell]] = {}
    for measure in MEASURES:
        if not all(measure.key in row for arm in rows.values() for row in arm):
            continue
        base = [row[measure.key] for row in rows[baseline]]
        table[measure.key] = {}
        for arm, of_arm in rows.items():
            values = tuple(row[measure.key] for row in of_arm)
            if arm == baseline:
                table[measure.key][arm] = Cell(values)
            else:
                differences = [value - other for value, other in zip(values, base)]
                table[measure.key][arm] = Cell(values, statistics.fmean(differences), deviation(differences))
    return table


def markdown(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The table, with a line on what every number is."""
    table = cells(rows)
    arms = list(rows)
    lines = ["| | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
    for measure in MEASURES:
        if measure.key not in table:
            continue
        texts = []
        for arm in arms:
            cell = table[measure.key][arm]
            text = f"{measure.text(cell.mean)} ± {measure.text(cell.deviation)}"
            if cell.difference is not None:
                changed = measure.text(cell.difference, signed=True)
                text += f" ({changed} ± {measure.text(cell.difference_deviation)})"
            texts.append(text)
        better = "higher is better" if measure.higher_is_better else "lower is better"
        lines.append(f"| {measure.title}, {better} | " + " | ".join(texts) + " |")
    first = rows[arms[0]][0]
    tokens = sorted({int(row["tokens"]) for arm in rows.values() for row in arm})
    lines += [
        "",
        f"Mean ± standard deviation over {len(rows[arms[0]])} seeds; in brackets the difference from {arms[0]}, taken "
        f"seed by seed. {int(first['questions'])} held-out questions, chance {100 * first['chance']:.1f} %; "
        f"{int(first['parameters']):,} parameters, {' or '.join(f'{count:,}' for count in tokens)} training tokens "
        "a run.",
    ]
    return "\n".join(lines) + "\n"
