"""The page as values: the parts of all stages, in the order of the flow. No drawing, no HTML, no stage by name.

The part of a stage comes from the function that the stage names; a stage that names none gets a generic one. Whatever
has nothing to show is left out here, so that the template need not ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ipt.errors import StageError
from megatron_ipt.manifest import read_manifest
from megatron_ipt.report.generic import generic_part, generic_step, label, titled
from megatron_ipt.stages import Stage, load
from megatron_ipt.stages.page import (
    Bars,
    Chart,
    Curve,
    Element,
    Figures,
    Fold,
    Levels,
    Part,
    Quotes,
    Samples,
    Shares,
    SideBySide,
    SmallCharts,
    StageRecord,
    Step,
    Table,
    Tree,
)

_MOST_CARDS_IN_A_ROW = 8


@dataclass(frozen=True)
class Card:
    """A stage in the picture of the flow; ``share_of_time`` is 0 to 1 of all stages together."""

    stage: str
    step: Step
    status: str
    error: str
    seconds: float | None
    share_of_time: float


@dataclass(frozen=True)
class Section:
    """What one stage shows.

    Attributes:
        anchor: id on the page.
        status: of the stage if it is not complete, else empty.
    """

    anchor: str
    title: str
    link: str
    status: str
    elements: Sequence[Element]


@dataclass(frozen=True)
class Page:
    """Everything the template lays out.

    Attributes:
        name: of the recipe.
        summary: the run in one sentence.
        cards_in_a_row: on a wide screen.
        started: when the first stage began, as its manifest says it; empty if none says it.
        settings: by stage, keys and values.
        versions: packages and their versions.
    """

    name: str
    summary: str
    cards: Sequence[Card]
    cards_in_a_row: int
    sections: Sequence[Section]
    seconds: float
    started: str
    settings: Mapping[str, Sequence[tuple[str, str]]]
    versions: Sequence[tuple[str, str]]

    @property
    def samples(self) -> int:
        """How many sample documents are shown."""
        return sum(_samples_in(section.elements) for section in self.sections)


def read_records(stages: Sequence[Stage], folders: Mapping[str, Path]) -> list[StageRecord]:
    """The stages that have begun, with what they left in their ``folders``, in the order of ``stages``."""
    found: list[StageRecord] = []
    makers: dict[str, StageRecord] = {}
    for stage in stages:
        manifest = read_manifest(folders[stage.name])
        if manifest is not None:
            record = StageRecord(stage, folders[stage.name], manifest, dict(makers))
            makers |= dict.fromkeys(stage.made_after(makers), record)
            found.append(record)
    return found


def lay_out(name: str, records: Sequence[StageRecord], most_samples: int) -> Page:
    """The page of the run called ``name``.

    Args:
        records: from :func:`read_records`.
        most_samples: shown of each list of samples.

    Raises:
        StageError: the function of a stage returned something that cannot be shown.
    """
    parts = {record.name: _part(record) for record in records}
    seconds = float(sum(record.manifest.get("seconds") or 0 for record in records))
    sections = []
    for record in records:
        part = parts[record.name]
        elements = _with_levels([*part.elements], _levels_for(record, records, parts))
        elements = _all_shown(elements, most_samples)
        if elements:
            title = part.title or titled(record.name)
            status = "" if record.status == "complete" else record.status
            sections.append(Section(record.name, title, part.link or title, status, elements))
    rows = -(-len(records) // _MOST_CARDS_IN_A_ROW)
    started = (str(record.manifest.get("started", "")) for record in records)
    return Page(
        name=name or "Run",
        summary=_summary(records, parts),
        cards=[_card(record, parts[record.name].step or generic_step(record), seconds) for record in records],
        cards_in_a_row=-(-len(records) // max(rows, 1)),
        sections=sections,
        seconds=seconds,
        started=min(filter(None, started), default=""),
        settings={record.name: setting_rows(record.settings) for record in records if record.settings},
        versions=_versions(records),
    )


def _part(record: StageRecord) -> Part:
    hook = record.stage.report
    if not hook:
        return generic_part(record)
    # Not Stage.function: the page is made where libraries of the stage itself may be missing.
    part = load(hook)(record)
    if not isinstance(part, Part):
        raise StageError(f"report: {hook} returned {type(part).__name__}, expected megatron_ipt.stages.page.Part")
    for element in part.elements:
        _check(element, hook)
    return part


def _check(element: Any, source: str) -> None:
    if not isinstance(element, Element):
        raise StageError(f"report: {source}: {type(element).__name__} is not an element of megatron_ipt.stages.page")
    for inner in element.elements if isinstance(element, (SideBySide, Fold)) else ():
        _check(inner, source)


def _card(record: StageRecord, step: Step, all_seconds: float) -> Card:
    seconds = record.manifest.get("seconds")
    return Card(
        label(record.name),
        step,
        record.status,
        record.manifest.get("error") or "",
        seconds,
        (seconds or 0) / all_seconds if all_seconds else 0.0,
    )


def _summary(records: Sequence[StageRecord], parts: Mapping[str, Part]) -> str:
    """The run in one sentence, as far as it went."""
    replaced = {
        record.earlier[kind].name
        for record in records
        for kind in parts[record.name].instead_of
        if kind in record.earlier and parts[record.name].headline
    }
    clauses = [part.headline for name, part in parts.items() if part.headline and name not in replaced]
    if not clauses:
        finished = any(record.counts for record in records)
        return "" if finished else "No stage of this run has finished yet."
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _levels_for(target: StageRecord, records: Sequence[StageRecord], parts: Mapping[str, Part]) -> list[Levels]:
    return [
        levels
        for record in records
        for levels in parts[record.name].levels
        if levels.kind in record.earlier and record.earlier[levels.kind].name == target.name
    ]


def _with_levels(elements: list[Element], found: Sequence[Levels]) -> list[Element]:
    for levels in found:
        elements = [
            _add_levels(element, levels) if isinstance(element, Chart) and element.name == levels.chart else element
            for element in elements
        ]
    return elements


def _add_levels(chart: Chart, levels: Levels) -> Chart:
    x = [x for curve in chart.curves for x in curve.x]
    if not x or not levels.levels:
        return chart
    ends = (min(x), max(x))
    lines = [Curve(name, ends, (value, value), color, dashed=True) for name, value, color in levels.levels]
    # First, so that measurements are drawn above them.
    note = " ".join(filter(None, (chart.note, levels.note)))
    return replace(chart, curves=[*lines, *chart.curves], note=note)


_CONTENTS = {
    Bars: "counts",
    Figures: "figures",
    Fold: "elements",
    Quotes: "quotes",
    Samples: "samples",
    Shares: "shares",
    SideBySide: "elements",
    SmallCharts: "charts",
    Table: "rows",
    Tree: "branches",
}
"""What an element consists of; one without any of it is left out. The others always have something to show."""


def _shown(element: Element, most_samples: int) -> Element | None:
    """The element with what there is to show of it, or None."""
    if isinstance(element, (SideBySide, Fold)):
        element = replace(element, elements=_all_shown(element.elements, most_samples))
    elif isinstance(element, SmallCharts):
        element = replace(element, charts=[chart for chart in element.charts if _has_points(chart)])
    elif isinstance(element, Samples):
        element = replace(element, samples=element.samples[:most_samples])
    elif isinstance(element, Chart):
        return element if _has_points(element) else None
    elif isinstance(element, Bars) and element.if_empty:
        return element
    contents = _CONTENTS.get(type(element))
    return element if contents is None or getattr(element, contents) else None


def _all_shown(elements: Sequence[Element], most_samples: int) -> list[Element]:
    return [shown for element in elements if (shown := _shown(element, most_samples)) is not None]


def _has_points(chart: Chart) -> bool:
    return any(len(curve.x) for curve in chart.curves)


def _samples_in(elements: Sequence[Element]) -> int:
    return sum(
        len(element.samples)
        if isinstance(element, Samples)
        else _samples_in(element.elements)
        if isinstance(element, (SideBySide, Fold))
        else 0
        for element in elements
    )


def setting_rows(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings with dotted keys, as in a recipe; an empty one is an empty text."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += setting_rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _setting_text(value)))
    return rows


def _setting_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_setting_text, value))
    return "" if value == {} else str(value)


def _versions(records: Sequence[StageRecord]) -> list[tuple[str, str]]:
    """Versions of all stages; several if stages ran with different ones."""
    found: dict[str, list[str]] = {}
    for record in records:
        for package, version in record.manifest.get("versions", {}).items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return [(package, ", ".join(seen)) for package, seen in found.items()]
