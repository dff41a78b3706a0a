"""What the page about a run shows of its judged pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ipt.evaluation.judge.output_files import JUDGED
from megatron_ipt.evaluation.judge.table import Figure as Measured, figures_of
from megatron_ipt.stages.page import (
    FAINT,
    FIRST,
    SECOND,
    Column,
    Element,
    Figure,
    Figures,
    Fold,
    Part,
    Quotes,
    Row,
    Segment,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import MISSING, exact, percent, plural

_NOTE = (
    "None of these figures shows that a pair is correct. Answers of summaries, reasoning and multiple choice need not "
    "be in the text."
)
_QUOTED = 300


def part(stage: StageRecord) -> Part:
    """The judgement on the page."""
    result = stage.read(JUDGED, {})
    if not stage.counts or not result:
        return Part()
    amounts, grounding, gold = result["amounts"], result["grounding"], result.get("gold", {})
    found = percent(grounding["answer_in_text"])
    judged = plural(amounts["pairs"], "pair")
    figures = [
        Figure("pairs judged", exact(amounts["pairs"]), f"of {plural(amounts['texts'], 'text')}"),
        Figure("answer found in the text", found),
        Figure("own text ranked first", percent(result["relevance"]["own_text_first"]), "by retrieval"),
        Figure("duplicate questions", percent(result["repetition"]["duplicate_questions"])),
    ]
    if gold:
        figures.append(Figure("gold questions with a match", percent(gold["coverage"])))
    return Part(
        title="Quality of the pairs",
        link="Quality",
        step=Step(f"from {judged}", found, "answers in the text") if amounts["pairs"] else None,
        elements=[
            Figures(figures, _NOTE),
            _groups("By prompt style", "Style", result["by_style"]),
            _groups("By task of the prompt", "Task", result["by_task"]),
            Fold("All figures", _tables(figures_of(result)), "as megatron-ipt judge prints them"),
            _quotes(result["not_in_text"]),
        ],
    )


def _groups(title: str, name: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = (Column(name, numeric=False), Column("Pairs"), Column("Answer in the text"))
    rows = [
        Row((label, exact(figures["pairs"]), percent(figures["answer_in_text"]))) for label, figures in groups.items()
    ]
    return Table(columns, rows, title)


def _tables(figures: Sequence[Measured]) -> list[Element]:
    """A table for each group of figures."""
    columns = (Column("Metric", numeric=False), Column("Value", numeric=False))
    groups = dict.fromkeys(figure.group for figure in figures)
    return [
        Table(columns, [Row((each.label, each.value)) for each in figures if each.group == group], group)
        for group in groups
    ]


def _quotes(pairs: Sequence[Mapping[str, str]]) -> Quotes:
    quotes = []
    for pair in pairs:
        asked = ", ".join(pair[name] for name in ("style", "task") if pair.get(name))
        quotes.append(
            (
                Segment(f"{pair['id']}{f' ({asked})' if asked else ''}: ", FAINT),
                Segment(pair["question"][:_QUOTED] + " ", FIRST),
                Segment(pair["answer"][:_QUOTED] or MISSING, SECOND),
            )
        )
    return Quotes("Answers that are not in their text", quotes, "Questions and answers marked.")
