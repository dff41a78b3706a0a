"""Curves as inline SVG that takes its colors from the page.

matplotlib draws with placeholder colors, which become CSS variables afterwards, so that one drawing serves light and
dark. Text stays text in the page's own font. The same chart gives the same bytes: ids derive from a name that the
caller gives, and no date is written. Curves of any length become about one point per pixel without losing a spike.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

from megatron_ipt.stages.page import COLORS, Chart, Curve
from megatron_ipt.stages.readable import tick

MARKED_POINTS = 40
"""Curves of fewer points show each as a dot."""

_POINTS_PER_INCH = 72
_TICK_STEPS = [1, 2, 2.5, 5, 10]
_LOG_RANGE = 100
"""Positive values of which the largest is this many times the smallest get a logarithmic axis, if the chart allows."""

_PALETTE = {name: f"#0101{index:02x}" for index, name in enumerate(("ink", "line", *COLORS), 1)}
"""Name of a CSS variable of the page to the placeholder drawn in its place."""


def thin_out(x: Sequence[float], y: Sequence[float], points: int) -> tuple[list[float], list[float]]:
    """At most ``points`` of a curve, with its first, last, lowest and highest ones among them.

    Equal stretches of the curve keep their lowest and highest point each. Values that are not finite are left out.
    """
    finite = [index for index, value in enumerate(y) if math.isfinite(value)]
    if len(finite) > points:
        stretches = max((points - 2) // 2, 1)
        bounds = [len(finite) * number // stretches for number in range(stretches + 1)]
        kept = {finite[0], finite[-1]}
        for start, end in itertools.pairwise(bounds):
            stretch = finite[start:end]
            kept |= {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)}
        finite = sorted(kept)
    return [x[index] for index in finite], [y[index] for index in finite]


def draw(chart: Chart, width: int, height: int, name: str) -> str:
    """``chart`` as an ``<svg>`` element of ``width`` by ``height`` CSS pixels, to be placed in HTML.

    Args:
        name: unique on the page; ids in the drawing derive from it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "axes.linewidth": 0.8,
        "text.color": _PALETTE["ink"],
        "axes.labelcolor": _PALETTE["ink"],
        "axes.edgecolor": _PALETTE["line"],
        "xtick.color": _PALETTE["line"],
        "ytick.color": _PALETTE["line"],
        "xtick.labelcolor": _PALETTE["ink"],
        "ytick.labelcolor": _PALETTE["ink"],
        "grid.color": _PALETTE["line"],
        "path.simplify": False,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context():
        # Starts from the library's own defaults, whatever matplotlibrc the user has.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = Figure((width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0, pad=6)
        for curve in chart.curves:
            _plot(axes, curve, width)
        if chart.log and _spans_decades(chart):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5 if height < 200 else 7, steps=_TICK_STEPS))
        narrow = width < 500
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, integer=True, steps=_TICK_STEPS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.margins(x=0.02)
        axes.set_xlabel(chart.x_label, parse_math=False)
        if chart.upper_per_x:
            _add_upper_axis(axes, chart, MaxNLocator(4 if narrow else 8, steps=_TICK_STEPS))
        stream = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, dpi=_POINTS_PER_INCH)
    return _for_page(stream.getvalue(), width, height)


def _plot(axes: Any, curve: Curve, points: int) -> None:
    x, y = thin_out(curve.x, curve.y, points)
    color = _PALETTE[curve.color]
    if curve.dashed:
        axes.plot(x, y, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
        return
    marker = "o" if len(x) <= MARKED_POINTS else ""
    axes.plot(x, y, color=color, linewidth=1 if len(x) > MARKED_POINTS else 1.6, marker=marker, markersize=3.5)


def _add_upper_axis(axes: Any, chart: Chart, locator: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    scale = chart.upper_per_x
    upper = axes.secondary_xaxis("top", functions=(lambda x: x * scale, lambda upper: upper / scale))
    upper.xaxis.set_major_locator(locator)
    upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    upper.spines["top"].set_visible(False)
    upper.patch.set_visible(False)
    upper.tick_params(length=0, pad=4)
    upper.set_xlabel(chart.upper_label, labelpad=8, parse_math=False)


def _spans_decades(chart: Chart) -> bool:
    values = [value for curve in chart.curves for value in curve.y if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) >= _LOG_RANGE * min(values)


def _for_page(svg: str, width: int, height: int) -> str:
    """Leaves what HTML needs of a stand-alone SVG file: no prolog, namespaces, fonts of its own or unused ids."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    # Hundredths of a pixel are enough for shapes; the text between tags keeps its digits.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    names = {name for pair in used for name in pair}
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in names else "", svg)
    for name, placeholder in _PALETTE.items():
        svg = svg.replace(placeholder, "currentColor" if name == "ink" else f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)
