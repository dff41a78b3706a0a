"""Result table by variant: means over seeds, their standard deviation, and differences from the baseline.

Differences are taken per seed and then averaged, because variants with the same seed share initial weights and part of
the noise. With few seeds a confidence interval would be wide, so the standard deviation over seeds is shown instead.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A metric of every run.

    Attributes:
        key: key in the results.
        title: title with unit.
        higher_is_better: whether higher values are better.
        percent: whether to show a percentage.
        reference: key of the value expected by chance; empty if there is none.
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
    Measure("f1", "F1 of generated answers", True, True),
    Measure("exact_match", "exact match of generated answers", True, True),
    Measure("text_loss", "loss of held-out plain text (nats per token)"),
)


@dataclass(frozen=True)
class Cell:
    """One metric of one variant.

    Attributes:
        values: values by seed.
        difference: mean over seeds of the difference from the baseline; None for the baseline.
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
    """Metrics of one run, from the ``results.json`` of its evaluation and the counts of its training."""
    questions = results["questions"]["held_out"]
    names = ("answer_loss", "accuracy", "accuracy_per_byte", "chance", "f1", "exact_match")
    row = {name: questions[name] for name in names if name in questions}
    if "plain" in results["perplexity"]:
        row["text_loss"] = results["perplexity"]["plain"]["loss"]
    return {**row, "questions": questions["ranked"], "tokens": counts["tokens"], "parameters": counts["parameters"]}


def cells(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Cell]]:
    """Cells by metric and variant.

    Args:
        rows: results of :func:`measured` by variant, one per seed, in the same order; the first is the baseline.
    """
    baseline = next(iter(rows))
    table: dict[str, dict[str, Cell]] = {}
    for measure in MEASURES:
        if not all(measure.key in row for arm in rows.values() for row in arm):
            continue
        base = [row[measure.key] for row in rows[baseline]]
        table[measure.key] = {}
        for arm, runs in rows.items():
            values = tuple(row[measure.key] for row in runs)
            if arm == baseline:
                table[measure.key][arm] = Cell(values)
            else:
                differences = [value - other for value, other in zip(values, base)]
                table[measure.key][arm] = Cell(values, statistics.fmean(differences), deviation(differences))
    return table


def markdown(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The table in Markdown, with a line that explains the numbers."""
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
        f"Mean ± standard deviation over {len(rows[arms[0]])} seeds; in parentheses the difference from {arms[0]}, "
        f"taken per seed. {int(first['questions'])} held-out questions, chance {100 * first['chance']:.1f} %; "
        f"{int(first['parameters']):,} parameters, {' or '.join(f'{count:,}' for count in tokens)} training tokens "
        "per run.",
    ]
    return "\n".join(lines) + "\n"
