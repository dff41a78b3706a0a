"""What the page about a run shows of this room: the tree with its pairs and losses, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.manifest import USAGE
from megatron_ipt.stages.page import (
    ORANGE,
    Bars,
    Branch,
    Caution,
    Chart,
    Column,
    Curve,
    Element,
    Figure,
    Figures,
    Part,
    Row,
    SideBySide,
    StageRecord,
    Step,
    Table,
    Tree,
)
from megatron_ipt.stages.readable import MISSING, compact, exact, number, percent, plural
from megatron_ipt.synthesis.from_taxonomy.asking import LEVELS
from megatron_ipt.synthesis.from_taxonomy.counts import NEVER
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import SEPARATOR

_MOST_LEVELS = 12
_MANY_REPEATS, _MANY_LOST, _LITTLE_JSON = 0.3, 0.2, 0.8


def part(stage: StageRecord) -> Part:
    """The tree on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    pairs, disciplines = counts["pairs"], counts["disciplines"]
    made = plural(pairs, "instruction–response pair")
    figures = [
        Figure("pairs", exact(pairs)),
        Figure("disciplines", exact(disciplines)),
        Figure("subjects", exact(counts["subjects"]), f"{exact(counts['merged_subjects'])} merged"),
        Figure("sessions", exact(counts["sessions"])),
        Figure(
            "draws",
            exact(counts["draws"]),
            f"of {compact(counts['draws_possible'])} possible, {exact(counts['draws_wanted'])} wanted",
        ),
    ]
    return Part(
        title="Pairs from a taxonomy",
        link="Taxonomy",
        step=Step(f"from {plural(disciplines, 'discipline')}", compact(pairs), "pair" if pairs == 1 else "pairs"),
        headline=f"{made} made for {plural(disciplines, 'discipline')}",
        elements=[
            Figures(figures, f"Written by {_teachers(counts)}; licence: {counts['licence']}. Answers are unverified."),
            *_cautions(counts),
            Tree(
                "Pairs by discipline",
                _branches(counts["by_discipline"]),
                ("pairs", "lost: nodes without what should have grown from them"),
            ),
            SideBySide([Bars("Lost, by kind and reason", counts["lost"]), _tries(counts)]),
            _saturation(counts),
            _levels(counts),
            Bars("JSON objects that could not be used", counts["unusable_objects"]),
            _calls(counts),
            *_used(counts),
        ],
    )


def _teachers(counts: Mapping[str, Any]) -> str:
    teachers = counts["teacher"]
    if len(set(teachers.values())) == 1:
        return str(next(iter(teachers.values())))
    return ", ".join(f"{teacher} ({what})" for what, teacher in teachers.items())


def _branches(by_discipline: Mapping[str, Mapping[str, int]]) -> list[Branch]:
    fields: dict[str, dict[str, list[Branch]]] = {}
    for path, row in by_discipline.items():
        field, sub_field, name = path.split(SEPARATOR)
        fields.setdefault(field, {}).setdefault(sub_field, []).append(Branch(name, row["pairs"], row["lost"]))
    return [
        Branch(field, branches=[Branch(sub_field, branches=leaves) for sub_field, leaves in sub_fields.items()])
        for field, sub_fields in fields.items()
    ]


def _tries(counts: Mapping[str, Any]) -> Table:
    """JSON success by try."""
    attempts = sorted(
        {attempt for row in counts["json_tries"].values() for attempt in row if attempt != NEVER}, key=int
    )
    columns = [
        Column("conversion", numeric=False),
        *(Column(f"at try {attempt}") for attempt in attempts),
        Column(NEVER),
    ]
    rows = []
    for level, row in counts["json_tries"].items():
        total = max(1, sum(row.values()))
        cells = [percent(row.get(attempt, 0) / total) for attempt in (*attempts, NEVER)]
        rows.append(Row([level, *cells]))
    return Table(columns, rows, title="Conversions to JSON")


def _saturation(counts: Mapping[str, Any]) -> Chart:
    marks = sorted((int(first), row) for first, row in counts["saturation"].items())
    curve = Curve(
        "repeat an earlier question of their subject",
        [first for first, _ in marks],
        [100 * row["repeated"] / max(1, row["questions"]) for _, row in marks],
        ORANGE,
    )
    return Chart(
        "Repeats against draws",
        [curve],
        x_label="first questions of each subject",
        small="% of these questions",
        note="Where the curve rises, further questions of a subject cost more and more for each new one.",
    )


def _levels(counts: Mapping[str, Any]) -> Table:
    rows = sorted(counts["levels"].items(), key=lambda item: -item[1]["questions"])
    return Table(
        [Column("level of the subject", numeric=False), Column("questions"), Column("words per question")],
        [
            Row([level, exact(row["questions"]), f"{row['words'] / max(1, row['questions']):.1f}"])
            for level, row in rows[:_MOST_LEVELS]
        ],
        title="Length of questions by level",
        note=f"{len(rows) - _MOST_LEVELS} further levels are left out." if len(rows) > _MOST_LEVELS else "",
    )


def _calls(counts: Mapping[str, Any]) -> Table:
    rows = []
    for level in LEVELS:
        figures = counts["calls"].get(level)
        if figures:
            calls = max(1, figures["calls"])
            cached = (
                percent(figures["cached_tokens"] / figures["prompt_tokens"]) if figures["cached_tokens"] else MISSING
            )
            each = [f"{figures[name] / calls:,.0f}" for name in ("prompt_tokens", "generated_tokens")]
            ended = percent(_ended_early(figures) / calls)
            rows.append(Row([level, exact(figures["calls"]), each[0], cached, each[1], ended]))
    names = ("calls", "tokens in, each", "of them cached", "tokens out, each", "cut off or in a loop")
    return Table([Column("level of the tree", numeric=False), *map(Column, names)], rows, title="Calls")


def _ended_early(figures: Mapping[str, int]) -> int:
    """Answers that the token limit or a loop ended."""
    return figures.get("cut_off", 0) + figures.get("loops", 0)


def _used(counts: Mapping[str, Any]) -> list[Element]:
    figures = [
        Figure(
            "answers" if name == "all" else name,
            exact(usage["answers"]),
            f"{number(usage['cost'])} {usage['currency']}" if "cost" in usage else "",
        )
        for name, usage in counts.get(USAGE, {}).items()
    ]
    return [Figures(figures, "Everything that was ever asked in this folder, discarded output included.")]


def _cautions(counts: Mapping[str, Any]) -> list[Element]:
    cautions = []
    for level, share in counts["json_success"].items():
        if share < _LITTLE_JSON:
            cautions.append(f"Only {percent(share)} of the conversions to {level} succeeded.")
    for level, figures in counts["calls"].items():
        if _ended_early(figures) > _MANY_LOST * figures.get("calls", 0):
            early = f"{exact(_ended_early(figures))} of {exact(figures['calls'])}"
            cautions.append(f"{level.capitalize()}: {early} answers were cut off or in a loop.")
    asked = counts["draws"]
    if counts["repeated_questions"] > _MANY_REPEATS * asked:
        cautions.append(
            f"{exact(counts['repeated_questions'])} of {exact(asked)} questions repeat another: fewer "
            "questions per subject would do."
        )
    lost = asked - counts["repeated_questions"] - counts["pairs"]
    if lost > _MANY_LOST * asked:
        cautions.append(f"{exact(lost)} of {exact(asked)} questions have no usable answer, or could not be asked.")
    if counts["draws"] < counts["draws_wanted"]:
        cautions.append(
            f"{exact(counts['draws'])} of {exact(counts['draws_wanted'])} questions were asked: the other syllabi have "
            "fewer combinations of concepts."
        )
    return [Caution(text) for text in cautions]
