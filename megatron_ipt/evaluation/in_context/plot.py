"""Picture of accuracy against the number of demonstrations: a line per mode, a dot per seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.files import atomic_open

_COLORS = {"structured": "#0b7a6f", "concat": "#b4540a"}
_GREY = "#59626d"
_MEASURE = "accuracy_per_token"


def save(results: dict[str, Any], paths: Sequence[Path]) -> None:
    """Draws ``results`` of :func:`.curve.draw_curve`; suffixes of paths select the format."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title = f"{Path(results['model']).name}: {results['questions']} questions"
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": title, "svg.fonttype": "none"})
        figure = Figure((5.6, 3.7), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _draw(axes, results)
        axes.set_title(title, fontsize=10)
        for path in paths:
            date = {"Date": None} if path.suffix == ".svg" else {}
            with atomic_open(path) as stream:
                figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=date)


def _draw(axes: Any, results: dict[str, Any]) -> None:
    counts = sorted({row["demonstrations"] for row in results["summary"] if row["demonstrations"]})
    for mode, color in _COLORS.items():
        rows = [row for row in results["summary"] if row["mode"] == mode]
        if not rows:
            continue
        # Modes side by side where both were measured.
        shift = 1.03 if mode == "structured" else 1 / 1.03
        places = [shift * row["demonstrations"] for row in rows]
        axes.errorbar(
            places, [100 * row[_MEASURE]["mean"] for row in rows],
            yerr=[100 * (row[_MEASURE]["deviation"] or 0) for row in rows],
            color=color, linewidth=1.5, capsize=4, marker="o", markersize=4, label=mode,
        )  # fmt: skip
        for point in results["points"]:
            if point["mode"] == mode:
                axes.plot(
                    shift * point["demonstrations"], 100 * point[_MEASURE], "o", markersize=4, color=color, alpha=0.35,
                    markeredgewidth=0,
                )  # fmt: skip
    for row in results["summary"]:
        if row["mode"] == "none":
            axes.axhline(100 * row[_MEASURE]["mean"], color=_GREY, linewidth=1, label="no demonstrations")
    axes.axhline(100 * results["points"][0]["chance"], color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label="chance")
    if counts:
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlim(counts[0] / 1.5, counts[-1] * 1.5)
        axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel("demonstrations")
    axes.set_ylabel("accuracy (%), mean and deviation over seeds")
    axes.grid(axis="y", linewidth=0.5, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
