"""Plots a comparison: one panel per metric, one dot per seed, and the mean with its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.comparison.table import MEASURES, Cell, Measure, cells
from megatron_ipt.files import atomic_open

_COLORS = ("#59626d", "#0b7a6f", "#b4540a", "#7a3fb0", "#b01f5c", "#4d6b12")
"""The baseline is grey."""
_PANEL_INCHES, _INCHES_PER_ARM = (3.1, 3.4), 0.72
_PANELS_IN_A_ROW = 3


def save(title: str, rows: Mapping[str, Sequence[Mapping[str, float]]], paths: Sequence[Path]) -> None:
    """Plots rows of :func:`~megatron_ipt.comparison.table.measured` by variant; suffixes of paths select the format."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = cells(rows)
    measures = [measure for measure in MEASURES if measure.key in table]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": title, "svg.fonttype": "none"})
        width, height = max(_PANEL_INCHES[0], _INCHES_PER_ARM * (len(rows) + 1)), _PANEL_INCHES[1]
        # As many in each row, as far as they go: four panels are two and two.
        lines = -(-len(measures) // _PANELS_IN_A_ROW)
        columns = -(-len(measures) // lines)
        figure = Figure((width * columns, height * lines), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        panels = figure.subplots(lines, columns, squeeze=False).flat
        for axes, measure in zip(panels, measures):
            _draw(axes, measure, table[measure.key], rows)
        for axes in panels:
            axes.set_visible(False)
        for path in paths:
            date = {"Date": None} if path.suffix == ".svg" else {}
            with atomic_open(path) as stream:
                figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=date)


def _draw(
    axes: Any, measure: Measure, arms: Mapping[str, Cell], rows: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    scale = 100 if measure.percent else 1
    for position, cell in enumerate(arms.values()):
        color = _COLORS[position % len(_COLORS)]
        axes.errorbar(
            position, scale * cell.mean, yerr=scale * cell.deviation, fmt="_", markersize=26, markeredgewidth=2,
            color=color, capsize=5, linewidth=1.2,
        )  # fmt: skip
        for number, value in enumerate(cell.values):
            shift = 0.12 * (number - (len(cell.values) - 1) / 2)
            axes.plot(position + shift, scale * value, "o", markersize=4, color=color, alpha=0.55)
        text = f"{scale * cell.mean:.1f}" if measure.percent else f"{cell.mean:.3f}"
        top = scale * max(*cell.values, cell.mean + cell.deviation)
        axes.annotate(
            text, (position, top), xytext=(0, 9), textcoords="offset points", ha="center", va="center", fontsize=8
        )
    if measure.reference:
        level = scale * next(iter(rows.values()))[0][measure.reference]
        axes.axhline(level, color=_COLORS[0], linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "chance", (1, level), xytext=(0, 8), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", fontsize=8,
        )  # fmt: skip
    better = "higher" if measure.higher_is_better else "lower"
    unit = " (%)" if measure.percent else ""
    axes.set_title(f"{_wrapped(measure.title + unit)}\n{better} is better", fontsize=9)
    if measure.percent:
        # Starts at zero: a scale fitted to the spread would exaggerate small differences.
        highest = max(100 * value for cell in arms.values() for value in cell.values)
        axes.set_ylim(0, min(112, 1.5 * max(highest, level if measure.reference else 0)))
    axes.set_xticks(range(len(arms)), list(arms))
    axes.set_xlim(-0.5, len(arms) - 0.2)
    axes.margins(y=0.2)
    axes.grid(axis="y", linewidth=0.5, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _wrapped(text: str, width: int = 34) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
