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
        ('{"subject": "Hives", "level": {"a": "b"}}', [], {NAMELESS_OBJECT: 1}),
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


def test_parts_that_are_objects_belong_to_what_they_are_in() -> None:
    text = '{"subject": "Hives", "subtopics": [{"name": "frames"}, {"what": "boxes"}, "lids"]}'
    assert subjects_in(text) == ([Subject("Hives", "", ("frames", "boxes", "lids"))], Counter())
    pretty = json.dumps(
        [{"session": {"title": "Aims", "concepts": [{"title": "a", "b": "c"}, {"title": "d"}]}}], indent=1
    )
    assert sessions_in(pretty) == ([Session("Aims", ("a", "d"))], Counter())
    named = '{"name": "Beekeeping", "subjects": [{"subject": "Hives"}, {"subject": "Honey"}]}'
    assert subjects_in(named) == ([Subject("Hives"), Subject("Honey")], Counter())


def test_a_number_is_no_name_while_there_is_a_title() -> None:
    assert sessions_in('{"session": 1, "title": "Aims", "concepts": ["a"]}')[0] == [Session("Aims", ("a",))]
    assert sessions_in('{"session": 1, "concepts": ["a"]}')[0] == [Session("1", ("a",))]


def test_sessions_with_one_name_are_one_and_concepts_have_one_wording() -> None:
    lines = [
        {"session": "Aims", "concepts": ["Honey", "wax"]},
        {"session": "aims ", "concepts": ["WAX", "comb"]},
        {"session": "Means", "concepts": ["honey"]},
    ]
    found = sessions_in("\n".join(map(json.dumps, lines)))[0]
    assert found == [Session("Aims", ("Honey", "wax", "comb")), Session("Means", ("Honey",))]


def test_a_run_of_marks_takes_no_time() -> None:
    assert question_in("Question " + "." * 200_000 + " end").endswith("end")


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
        ("### Homework question 12)\n\n*How?*", "How?*"),
        ("Homework question\nHow?", "How?"),
        ("  How?\n\nWhy?", "How?\n\nWhy?"),
        ("Question marks are what?", "Question marks are what?"),
        ("Questions: none", "Questions: none"),
    ],
)
def test_the_label_of_a_question_goes(text: str, question: str) -> None:
    assert question_in(text) == question


def test_questions_that_name_a_session() -> None:
    assert names_a_session("What did session 3 say of wax?")
    assert names_a_session("Join Sessions 2 and 4.")
    assert not names_a_session("How long is a training session? 3 hours?")


@given(st.text(alphabet="{}[]\",:\\ \n'abc0", max_size=300))
@settings(max_examples=300, deadline=None)
def test_nothing_a_model_writes_is_an_error(text: str) -> None:
    for found in (subjects_in(text)[0], sessions_in(text)[0]):
        assert all(item.name and len(item.name) <= 200 for item in found)
