"""The part of a stage that describes none of its own: what its counts show by themselves.

Numbers become figures; counts by name, such as rejected records by reason, become bars; numbers by name and figure
become a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.stages.page import Bars, Column, Element, Figure, Figures, Part, Row, StageRecord, Step, Table
from megatron_ipt.stages.readable import MISSING, compact, exact, number


def generic_part(record: StageRecord) -> Part:
    """The part of a stage, made of its counts alone."""
    counts = record.counts
    figures = [Figure(label(name), value) for name, value in _plain(counts)]
    elements: list[Element] = [Figures(figures)]
    elements += [_by_name(name, value) for name, value in counts.items() if isinstance(value, Mapping)]
    return Part(elements=elements)


def generic_step(record: StageRecord) -> Step:
    """The card of a stage: the first number among the counts that it shows in logs, else of all counts."""
    stage, counts = record.stage, record.counts
    kinds = [kind for kind in stage.all_reads if kind in record.earlier]
    shown = [name for name in (*stage.shows, *counts) if _is_number(counts.get(name))]
    if not shown:
        return Step()
    amount = counts[shown[0]]
    return Step(
        into=f"from {' and '.join(kinds)}" if kinds else "",
        amount=compact(amount),
        unit=label(shown[0]).removesuffix("s") if amount == 1 else label(shown[0]),
    )


def label(name: str) -> str:
    """``texts_with_pairs`` -> ``texts with pairs``."""
    return name.replace("_", " ")


def titled(name: str) -> str:
    """A heading of a name: ``my_stage`` -> ``My stage``."""
    words = label(name)
    return words[:1].upper() + words[1:]


def _plain(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The counts that are a value by themselves; of a list, its length."""
    values = {name: len(value) if isinstance(value, list) else value for name, value in counts.items()}
    return [
        (name, _text(value)) for name, value in values.items() if value is not None and not isinstance(value, Mapping)
    ]


def _by_name(name: str, values: Mapping[str, Any]) -> Element:
    title = titled(name)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values.values()):
        return Bars(title, values)
    if all(isinstance(value, Mapping) for value in values.values()):
        columns = list(dict.fromkeys(key for value in values.values() for key in value))
        rows = [Row((row, *(_text(value.get(column)) for column in columns))) for row, value in values.items()]
        return Table((Column("", numeric=False), *(Column(label(column)) for column in columns)), rows, title)
    rows = [Row((label(key), _text(value))) for key, value in values.items()]
    return Table((Column("", numeric=False), Column("")), rows, title)


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return exact(value)
    return number(value) if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
