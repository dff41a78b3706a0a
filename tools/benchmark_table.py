"""Benchmark results: measured values, their targets, and a table of all of them.

A tool adds results while it prints, and writes them with ``--json FILE``; ``bench.py`` runs the tools and writes the
page. A target (``bar``) is a minimum, or with ``at_most`` a maximum; a ratio above 1 is better than the target.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Attributes:
        name: what was measured, with its settings.
        value, unit: e.g. 12000.0 and ``tokens per CPU-second``; ``x`` for ratios.
        bar: target; None if there is none.
        at_most: the target is an upper bound.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float | None:
        """Value relative to the target; above 1 is better."""
        if self.bar is None:
            return None
        better, worse = (self.bar, self.value) if self.at_most else (self.value, self.bar)
        return better / worse if worse else float("inf")


class Figures(list[Figure]):
    """Results of one tool, in order."""

    def add(self, name: str, value: float, unit: str, bar: float | None = None, at_most: bool = False) -> None:
        self.append(Figure(name, float(value), unit, bar, at_most))

    def write(self, path: str | None) -> None:
        """Writes the results as JSON to ``path``, if given."""
        if path:
            Path(path).write_text(json.dumps([asdict(figure) for figure in self], indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Figures:
        return cls(Figure(**row) for row in json.loads(path.read_text()))


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--json FILE``, common to all tools."""
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")


def table(figures: list[Figure]) -> str:
    """A Markdown table of values, targets and ratios; missed targets are bold."""
    lines = ["| measured | value | target | ratio |", "|---|--:|--:|--:|"]
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        bar = "" if figure.bar is None else f"{sign} {figure.bar:,g}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        if figure.ratio is not None and figure.ratio < 1:
            ratio = f"**{ratio}**"
        lines.append(f"| {figure.name} | {number(figure.value)} {figure.unit} | {bar} | {ratio} |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """At least three digits, with thousands separators: ``0.0521``, ``1.00``, ``310``, ``22,105``."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
