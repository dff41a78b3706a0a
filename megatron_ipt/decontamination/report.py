"""What the page about a run shows of this room: what was removed, because of which test questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.decontamination.tally import NEAR_DUPLICATE, cautions
from megatron_ipt.stages.page import (
    FIRST,
    Bars,
    Caution,
    Column,
    Element,
    Figure,
    Figures,
    Part,
    Quotes,
    Row,
    Segment,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import compact, exact, percent, plural

_MOST_TEST_SETS = 20
_KINDS = ("pairs", "texts", "documents")


def part(stage: StageRecord) -> Part:
    """Decontamination on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    removed = sum(counts["dropped"].values())
    near = counts["dropped"].get(NEAR_DUPLICATE, 0)
    tests = plural(counts["test_questions"], "test question")
    return Part(
        title="Decontamination",
        step=Step(
            into=f"against {plural(counts['test_questions'], 'test question')}",
            amount=compact(removed),
            unit="removed",
            detail=f"{compact(near)} near-duplicates" if near else f"of {compact(counts['compared'])}",
        ),
        elements=[
            *(Caution(text) for text in cautions(counts)),
            Figures(
                [
                    Figure("compared", exact(counts["compared"]), "pairs, texts and documents"),
                    Figure("test questions", exact(counts["test_questions"])),
                    Figure("found", exact(counts["questions_found"]), f"of {tests}"),
                    Figure("removed", exact(removed - near), _share(removed - near, counts["compared"])),
                    *([Figure("near-duplicates", exact(near), "removed")] if near else []),
                ]
            ),
            Bars(
                "Removed, by reason",
                counts["dropped"],
                note=f"Each is listed with the test question and the words in common in `{stage.name}/rejects/`.",
                if_empty="Nothing: no test question was found.",
            ),
            *_test_sets(counts),
            *_questions(counts),
            *_samples(counts),
        ],
    )


def _share(part_of: int, whole: int) -> str:
    return percent(part_of / whole) if whole else ""


def _test_sets(counts: Mapping[str, Any]) -> list[Element]:
    found = counts["test_sets"]
    rows = [
        Row((name, exact(questions), *(exact(found.get(name, {}).get(kind, 0)) for kind in _KINDS)))
        for name, questions in sorted(
            counts["questions_by_test_set"].items(),
            key=lambda item: (-sum(found.get(item[0], {}).values()), item[0]),
        )
    ]
    if not rows:
        return []
    note = f"{exact(len(rows) - _MOST_TEST_SETS)} further ones." if len(rows) > _MOST_TEST_SETS else ""
    columns = (Column("Test set", numeric=False), *map(Column, ("Questions", "Pairs", "Texts", "Documents")))
    return [Table(columns, rows[:_MOST_TEST_SETS], "What holds questions of which test set", note=note)]


def _questions(counts: Mapping[str, Any]) -> list[Element]:
    if not counts["questions"]:
        return []
    rows = [
        Row((row["question"], row["test_set"], exact(row["number"]), exact(row["found"])))
        for row in counts["questions"]
    ]
    columns = (
        Column("Test question", numeric=False), Column("Test set", numeric=False), Column("Number"), Column("Found"),
    )  # fmt: skip
    return [Table(columns, rows, "Test questions found most often")]


def _samples(counts: Mapping[str, Any]) -> list[Element]:
    if not counts["samples"]:
        return []
    quotes = [
        [
            Segment(f"{sample['part']}: {sample['before']} ".replace(":  ", ": ")),
            Segment(sample["words"], FIRST),
            Segment(f" {sample['after']}".rstrip()),
        ]
        for sample in counts["samples"]
    ]
    return [Quotes("Removed because of these words", quotes, "Words as they are compared: no case, no punctuation.")]
