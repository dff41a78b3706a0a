"""What a model writes instead of JSON lines, and what is read of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.synthesis.from_taxonomy.outline.draws import Session
from megatron_ipt.synthesis.from_taxonomy.outline.parsing import (
    BROKEN_OBJECT,
    NAMELESS_OBJECT,
    NO_CONCEPTS,
    Subject,
    merge,
    names_a_session,
    question_in,
    sessions_in,
    subjects_in,
)

HIVES = Subject("Hives", "beginner", ("frames", "boxes"))
HONEY = Subject("Honey", "advanced", ("nectar",))
LINES = (
    '{"subject": "Hives", "level": "beginner", "subtopics": ["frames", "boxes"]}\n'
    '{"subject": "Honey", "level": "advanced", "subtopics": ["nectar"]}'
)


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        f"Here are the subjects:\n\n```json\n{LINES}\n```\nAnything else?",
        "[" + LINES.replace("\n", ",\n") + "]",
        '{"subjects": [' + LINES.replace("\n", ", ") + "]}",
        LINES.replace("}\n", ",}\n"),
        LINES.replace('"', "'"),
        LINES.replace('"subject"', "subject").replace('"level"', "level"),
        "1. " + LINES.replace("\n", "\n2. "),
        LINES.replace("\n", " "),
        LINES.replace('"subject"', '"Subject Name"').replace("Subject Name", "name"),
        LINES.replace('["frames", "boxes"]', '"frames, boxes"'),
        json.dumps([json.loads(line) for line in LINES.splitlines()], indent=2),
    ],
)
def test_shapes_that_are_read_whole(text: str) -> None:
    assert subjects_in(text)[0] == [HIVES, HONEY]


@pytest.mark.parametrize(
    ("text", "expected", "unusable"),
    [
        ("", [], {}),
        ("I cannot help with that.", [], {}),
        ("[]", [], {}),
        ("{}", [], {NAMELESS_OBJECT: 1}),
        (LINES[:-12], [HIVES], {BROKEN_OBJECT: 1}),
        (LINES.replace('"frames", "boxes"]', '"frames", "box'), [HONEY], {BROKEN_OBJECT: 1}),
        ('{"level": "beginner"}\n' + LINES, [HIVES, HONEY], {NAMELESS_OBJECT: 1}),
        ('{"subject": ["Hives"]}', [], {NAMELESS_OBJECT: 1}),
        ('{"subject": "' + "x" * 300 + '"}', [], {NAMELESS_OBJECT: 1}),
        ('{"subject": "Hives", "level": {"a": "b"}}', [Subject("Hives")], {NAMELESS_OBJECT: 1}),
    ],
)
def test_shapes_that_are_read_in_part(text: str, expected: list[Subject], unusable: dict[str, int]) -> None:
    found, counts = subjects_in(text)
    assert found == expected
    if unusable:
        assert counts == Counter(unusable)


def test_sessions() -> None:
    text = (
        '{"session": "Session 1: Frames", "concepts": ["comb", "Comb", "wax"]}\n'
        '{"session": "2) Boxes", "key_concepts": "brood; honey"}\n'
        '{"session": "Lids", "concepts": []}\n{"concepts": ["x"]}\n{"title": "3D printing", "concepts": ["PLA"]}'
    )
    found, unusable = sessions_in(text)
    assert found == [
        Session("Frames", ("comb", "wax")), Session("Boxes", ("brood", "honey")), Session("3D printing", ("PLA",)),
    ]  # fmt: skip
    assert unusable == Counter({NO_CONCEPTS: 1, NAMELESS_OBJECT: 1})


def test_equal_subjects_are_merged_and_levels_kept_apart() -> None:
    again = Subject("ｈｉｖｅｓ ", "Beginner", ("other",))
    higher = Subject("Hives", "advanced")
    assert merge([[HIVES, HONEY], [again, higher]]) == ([HIVES, HONEY, higher], 1)
    # Ids are made of name and level, so what would have one id is one subject.
    assert len(merge([[Subject("A (b)"), Subject("A", "b")]])[0]) == 1


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Question: How?", "How?"),
        ("**Question 3:** How?", "How?"),
        ("Homework question\nHow?", "How?"),
        ("  How?\n\nWhy?", "How?\n\nWhy?"),
        ("Question marks are what?", "Question marks are what?"),
        ("Questions: none", "Questions: none"),
    ],
)
def test_the_label_of_a_question_goes(text: str, question: str) -> None:
    assert question_in(text).lstrip("* ") == question


def test_questions_that_name_a_session() -> None:
    assert names_a_session("What did session 3 say of wax?")
    assert names_a_session("Join Sessions 2 and 4.")
    assert not names_a_session("How long is a training session? 3 hours?")


@given(st.text(alphabet="{}[]\",:\\ \n'abc0", max_size=300))
@settings(max_examples=300, deadline=None)
def test_nothing_a_model_writes_is_an_error(text: str) -> None:
    for found in (subjects_in(text)[0], sessions_in(text)[0]):
        assert all(item.name and len(item.name) <= 200 for item in found)
