"""Pictures of a study: the search, the loss curves, contributions along them, and the scaling law."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.files import atomic_open

_GREY, _TEAL, _ORANGE = "#59626d", "#0b7a6f", "#b4540a"
_NAMES = {"conventional": _GREY, "policy": _TEAL}


def save(title: str, results: dict[str, Any], paths: Sequence[Path]) -> None:
    """Draws the content of ``results.json``; suffixes of paths select the format."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": title, "svg.fonttype": "none"})
        figure = Figure((9.2, 7.0), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(title.replace("_", " "), fontsize=11)
        panels = figure.subplots(2, 2).flat
        for axes, draw in zip(panels, (_search, _losses, _contributions, _law)):
            draw(axes, results)
            axes.grid(linewidth=0.5, alpha=0.6)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    axis.set_minor_formatter(NullFormatter() if _decades(axis) > 1 else FuncFormatter(_plain))
                    axis.set_major_formatter(FuncFormatter(_plain))
        for path in paths:
            date = {"Date": None} if path.suffix == ".svg" else {}
            with atomic_open(path) as stream:
                figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=date)


def _decades(axis: Any) -> float:
    low, high = sorted(axis.get_view_interval())
    return float(np.log10(high / max(low, 1e-300)))


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _search(axes: Any, results: dict[str, Any]) -> None:
    epochs = [entry["epoch"] for entry in results["history"]]
    axes.plot(epochs, [entry["area"] for entry in results["history"]], color=_TEAL)
    axes.set_ylabel("area under the desired loss (nats)", color=_TEAL)
    axes.set_xlabel("passes of the search")
    other = axes.twinx()
    other.plot(epochs, [max(entry["gap"], 1e-300) for entry in results["history"]], color=_ORANGE, linewidth=1)
    other.set_yscale("log")
    other.set_ylabel("left to gain, to first order", color=_ORANGE)
    other.spines["top"].set_visible(False)
    axes.set_title("Search", fontsize=9)


def _losses(axes: Any, results: dict[str, Any]) -> None:
    for kind, style in (("test", "-"), ("desired", (0, (3, 2)))):
        for name, color in _NAMES.items():
            curve = results[kind][name]
            speed = results["speed_up"][kind] if name == "policy" else None
            label = f"{name}, {kind}" + (f": {speed:.2f} times as fast" if speed else "")
            axes.plot(range(len(curve)), curve, color=color, linestyle=style, linewidth=1.3, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("loss (nats)")
    axes.legend(frameon=False, fontsize=7)
    axes.set_title("Training", fontsize=9)


def _contributions(axes: Any, results: dict[str, Any]) -> None:
    points = [point for point in results["points"] if point["curve"]["loss"]]
    for number, point in enumerate(points):
        share = number / max(1, len(points) - 1)
        color = tuple((1 - share) * a + share * b for a, b in zip(_rgb(_GREY), _rgb(_TEAL)))
        label = f"pass {point['epoch']}, compression {point['compression']:.2f}"
        axes.plot(point["curve"]["loss"], point["curve"]["similarity"], color=color, linewidth=1.1, label=label)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("loss of test examples (nats)")
    axes.set_ylabel("mean over deviation of contributions")
    if points:
        axes.legend(frameon=False, fontsize=7)
    axes.set_title("Similarity of contributions", fontsize=9)


def _law(axes: Any, results: dict[str, Any]) -> None:
    for name, color in _NAMES.items():
        law, curve = results["scaling_law"][name], np.array(results["test"][name])
        steps = np.unique(np.geomspace(1, len(curve) - 1, 80).round().astype(int))
        floor = law["floor"] if law else 0.0
        above = curve[steps] - floor
        axes.plot(steps[above > 0], above[above > 0], ".", color=color, markersize=4)
        if law:
            fitted = np.exp(law["exponent"] * (np.log(law["scale"]) - np.log(steps)))
            label = f"{name}: B {law['scale']:.3g}, β {law['exponent']:.3g}"
            axes.plot(steps, fitted, color=color, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("loss above its floor (nats)")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Scaling law, floor + (B / step)^β", fontsize=9)


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
