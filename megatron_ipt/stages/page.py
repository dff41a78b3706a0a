"""What a stage shows on the page about a run: the elements with which a room describes its part of it.

A room says *what* is shown; room ``report`` decides where it goes and how it looks, and knows no stage by name. A stage
names a function in ``Stage.report``, which is called with the stage's :class:`StageRecord` and returns its
:class:`Part`:

.. code-block:: python

    def part(stage: StageRecord) -> Part:
        counts = stage.counts
        if not counts:  # The stage has not finished.
            return Part()
        kept = compact(counts["kept"])
        return Part(
            title="Selection",
            step=Step(f"from {plural(counts['documents'], 'document')}", kept, "documents kept"),
            headline=f"{kept} of {plural(counts['documents'], 'document')} kept",
            elements=(Bars("Dropped documents", counts["dropped"]),),
        )

Text is plain text, escaped on the page; in prose and notes, ``backticks`` set off code. Numbers are formatted with
:mod:`megatron_ipt.stages.readable`, except those of bars and charts. An element with nothing to show is left out with
its title, so functions need no branch for it. The same record must give the same part: no date, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ipt.files import read_json
from megatron_ipt.stages import Stage

COLORS = ("grey", "teal", "orange", "purple", "pink", "olive")
GREY, TEAL, ORANGE, PURPLE, PINK, OLIVE = COLORS

PLAIN, FIRST, SECOND, FAINT = MARKS = ("plain", "first", "second", "faint")
"""How a stretch of text is set off: not at all, in one of two colours, or less visible than the rest."""


@dataclass(frozen=True)
class StageRecord:
    """What a stage left behind, finished or not.

    Attributes:
        stage: its description.
        folder: folder of the stage.
        manifest: its ``manifest.json`` (see :mod:`megatron_ipt.manifest`).
        earlier: by kind of data, the record of the last stage before this one that makes it.
    """

    stage: Stage
    folder: Path
    manifest: Mapping[str, Any]
    earlier: Mapping[str, StageRecord] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the stage, of its recipe section and of its folder."""
        return self.stage.name

    @property
    def status(self) -> str:
        """``complete``, ``running``, ``interrupted`` or ``failed``."""
        return str(self.manifest.get("status", ""))

    @property
    def counts(self) -> Mapping[str, Any]:
        """Counts of a finished stage, else empty."""
        return self.manifest.get("counts") or {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keys of its section that affect its output, and the seed."""
        return self.manifest.get("settings") or {}

    def counts_of(self, kind: str) -> Mapping[str, Any]:
        """Counts of the last stage before this one that makes ``kind``; empty if there is none or it is unfinished."""
        maker = self.earlier.get(kind)
        return maker.counts if maker is not None else {}

    def read(self, name: str, default: Any) -> Any:
        """The JSON file ``name`` in the folder, or ``default`` if it does not exist."""
        path = self.folder / name
        return read_json(path) if path.exists() else default


@dataclass(frozen=True)
class Step:
    """The stage's card in the picture of the flow; each a few words.

    Attributes:
        into: what the stage worked on, e.g. ``from 40 texts``.
        amount: how much it made, the one number of the card.
        unit: what the amount counts.
        detail: one more fact.
    """

    into: str = ""
    amount: str = ""
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Figure:
    """One number with its label and, in small print, a note."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """A row of numbers."""

    figures: Sequence[Figure]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """A bar for each count, with its share of the sum.

    Attributes:
        counts: by label.
        most: number of bars; further ones are added up in a last bar.
        in_order: keeps the order of ``counts``; otherwise the greatest comes first.
        note: shown below the bars.
        if_empty: shown if there are no counts; without it, the element is left out then.
    """

    title: str
    counts: Mapping[str, int]
    most: int = 40
    in_order: bool = False
    note: str = ""
    if_empty: str = ""


@dataclass(frozen=True)
class Branch:
    """A branch of a tree: a leaf with two amounts, or a name with branches.

    Attributes:
        label: its name.
        amount: of a leaf, drawn as a bar.
        lost: of a leaf, drawn behind that in another color.
        branches: of an inner branch.
    """

    label: str
    amount: int = 0
    lost: int = 0
    branches: Sequence[Branch] = ()


@dataclass(frozen=True)
class Tree:
    """Branches side by side with what they branch into, down to leaves with a bar each.

    Attributes:
        legend: what amount and loss are, in a word each.
    """

    title: str
    branches: Sequence[Branch]
    legend: tuple[str, str]
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are aligned to the right."""

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: one text for each column; the first one names the row.
        color: one of ``COLORS``, for a swatch before the name.
        strong: set in bold, as for a mean.
    """

    cells: Sequence[str]
    color: str = ""
    strong: bool = False

    def __post_init__(self) -> None:
        _check_color(self.color)


@dataclass(frozen=True)
class Table:
    """A table; ``small`` follows the title in small print."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""
    small: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.cells[:1]} has {len(row.cells)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Share:
    """A part of a whole; ``share`` is 0 to 1."""

    label: str
    share: float
    color: str

    def __post_init__(self) -> None:
        _check_color(self.color)


@dataclass(frozen=True)
class Shares:
    """One bar, divided into the shares of a whole; ``label`` says of what."""

    label: str
    shares: Sequence[Share]


@dataclass(frozen=True)
class Curve:
    """Values ``y`` at ``x``; NaN where nothing was measured.

    Attributes:
        label: for the legend.
        color: one of ``COLORS``.
        dashed: a reference rather than a measurement.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = GREY
    dashed: bool = False

    def __post_init__(self) -> None:
        _check_color(self.color)


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes.

    Attributes:
        title: what the y axis measures.
        small: unit or last value, in small print after the title.
        curves: drawn in order, later ones above.
        x_label: label of the lower axis.
        log: the y axis may be logarithmic; it is if the values span two decades or more.
        upper_label: adds an upper axis with this label.
        upper_per_x: units of the upper axis in one of the lower axis.
        note: shown below the chart.
        name: by which :class:`Levels` of other stages refer to it.
    """

    title: str
    curves: Sequence[Curve]
    x_label: str = ""
    small: str = ""
    log: bool = False
    upper_label: str = ""
    upper_per_x: float = 0.0
    note: str = ""
    name: str = ""


@dataclass(frozen=True)
class SmallCharts:
    """Small charts side by side, each of one curve or few, without legends."""

    charts: Sequence[Chart]
    title: str = ""
    small: str = ""


@dataclass(frozen=True)
class Segment:
    """A stretch of text; ``mark`` is one of ``MARKS``."""

    text: str
    mark: str = PLAIN

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"mark {self.mark!r}: expected one of {', '.join(MARKS)}")


@dataclass(frozen=True)
class Sample:
    """A document shown in full, with the middle of long segments folded; ``facts`` are shown beside its first words."""

    segments: Sequence[Segment]
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Samples:
    """Documents with marked segments. The recipe says how many are shown (``report.samples``).

    Attributes:
        legend: what the marks stand for: a segment each.
    """

    title: str
    samples: Sequence[Sample]
    legend: Sequence[Segment] = ()


@dataclass(frozen=True)
class Quotes:
    """Short texts with marked segments, shown as they are."""

    title: str
    quotes: Sequence[Sequence[Segment]]
    note: str = ""


@dataclass(frozen=True)
class Prose:
    """A paragraph; the ``caveat`` follows in small print."""

    text: str
    title: str = ""
    caveat: str = ""


@dataclass(frozen=True)
class Caution:
    """A warning that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class SideBySide:
    """Two elements beside each other where the screen is wide enough."""

    elements: Sequence[Element]


@dataclass(frozen=True)
class Fold:
    """Elements that open on demand."""

    summary: str
    elements: Sequence[Element]
    small: str = ""


Element = (
    Figures
    | Bars
    | Tree
    | Table
    | Shares
    | Chart
    | SmallCharts
    | Samples
    | Quotes
    | Prose
    | Caution
    | SideBySide
    | Fold
)


@dataclass(frozen=True)
class Levels:
    """Reference lines that a stage adds to a chart of an earlier one.

    Attributes:
        kind: of data; the chart is in the part of the last stage before this one that makes it.
        chart: name of the chart.
        levels: label, value and color of each line.
        note: added to that of the chart.
    """

    kind: str
    chart: str
    levels: Sequence[tuple[str, float, str]]
    note: str = ""


@dataclass(frozen=True)
class Part:
    """Everything the page shows of one stage, besides its status, time, settings and versions.

    Attributes:
        title: heading of its section; by default the name of the stage.
        link: name of the section in the table of contents; by default the title.
        step: its card in the flow; by default one of its counts.
        headline: a clause of the page's first sentence, without a capital or full stop.
        instead_of: kinds of data; the headline also says what those of their makers say, which are left out.
        elements: what the section shows; without any there is no section.
        levels: what it adds to charts of earlier stages.
    """

    title: str = ""
    link: str = ""
    step: Step | None = None
    headline: str = ""
    instead_of: Sequence[str] = ()
    elements: Sequence[Element] = ()
    levels: Sequence[Levels] = ()


def _check_color(color: str) -> None:
    if color and color not in COLORS:
        raise ValueError(f"color {color!r}: expected one of {', '.join(COLORS)}")
