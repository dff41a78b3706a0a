"""The part of the page: worked out from counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.decontamination.description import STAGE
from megatron_ipt.decontamination.report import part
from megatron_ipt.stages.page import FIRST, Bars, Caution, Figures, Quotes, StageRecord, Table
from tests.decontamination.conftest import HIVE, SIZE

COUNTS: dict[str, Any] = {
    "pairs": 90,
    "texts": 20,
    "documents": 70,
    "compared": 200,
    "dropped": {"pair holds a test question": 12, "near-duplicate of an earlier question": 8},
    "test_questions": 30,
    "questions_by_test_set": {"a.jsonl": 10, "b.jsonl": 20},
    "test_sets": {"b.jsonl": {"pairs": 12, "texts": 1}},
    "questions": [{"test_set": "b.jsonl", "number": 7, "question": SIZE, "found": 11}],
    "questions_found": 2,
    "frequent": [{"test_set": "b.jsonl", "number": 7, "question": SIZE, "found": 11}],
    "large_test_sets": {"b.jsonl": 0.065},
    "samples": [
        {
            "id": "x", "part": "answer", "test_set": "b.jsonl", "number": 1, "question": HIVE,
            "before": "he said", "words": "how many", "after": "",
        }
    ],
}  # fmt: skip


def record(counts: dict[str, Any]) -> StageRecord:
    return StageRecord(STAGE, Path("decontaminate"), {"status": "complete", "counts": counts})


def elements(kind: type, counts: dict[str, Any] = COUNTS) -> list[Any]:
    return [element for element in part(record(counts)).elements if isinstance(element, kind)]


def test_figures() -> None:
    (figures,) = elements(Figures)
    assert [(figure.label, figure.value) for figure in figures.figures] == [
        ("compared", "200"),
        ("test questions", "30"),
        ("found", "2"),
        ("removed", "12"),
        ("near-duplicates", "8"),
    ]
    step = part(record(COUNTS)).step
    assert step is not None and (step.into, step.amount) == ("against 30 test questions", "20")


def test_tables() -> None:
    sets, questions = elements(Table)
    assert [row.cells for row in sets.rows] == [("b.jsonl", "20", "12", "1", "0"), ("a.jsonl", "10", "0", "0", "0")]
    assert [row.cells for row in questions.rows] == [(SIZE, "b.jsonl", "7", "11")]


def test_words_in_common_are_marked() -> None:
    (quotes,) = elements(Quotes)
    assert [(segment.text, segment.mark) for segment in quotes.quotes[0]][:2] == [
        ("answer: he said ", "plain"),
        ("how many", FIRST),
    ]


def test_cautions() -> None:
    frequent, large = elements(Caution)
    assert "question 7 of b.jsonl is in 11 of 200 (5.50%)" in frequent.text and SIZE in frequent.text
    assert large.text.startswith("6% of everything holds a question of b.jsonl")


def test_nothing_found() -> None:
    nothing = COUNTS | {"dropped": {}, "questions": [], "samples": [], "frequent": [], "large_test_sets": {}}
    (bars,) = elements(Bars, nothing | {"test_sets": {}})
    assert bars.if_empty == "Nothing: no test question was found."
    assert len(elements(Table, nothing)) == 1 and not elements(Quotes, nothing)
    assert part(record({})).elements == ()
