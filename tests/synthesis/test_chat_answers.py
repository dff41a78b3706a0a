"""What chat models write, in every state of repair: the pairs in it, and a reason for whatever is not a pair."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.synthesis.from_text.prompted.chat.answers import (
    BROKEN_JSON,
    NOTHING_FOUND,
    TOO_MUCH,
    pair_of_text,
    pairs_of_records,
)
from megatron_ipt.synthesis.from_text.prompted.parsing import (
    BAD_OPTIONS,
    COPIED,
    CUT_OFF,
    NO_ANSWER,
    NO_QUESTION,
    NOT_AN_OPTION,
    REPEATED,
)
from megatron_ipt.synthesis.lenient_json import Broken, clean, read_objects
from megatron_ipt.synthesis.pairs import Pair

WHO = Pair("Who sat?", "A cat")
WHY = Pair("Why?", "It was tired.")
OPTIONS = Pair("Which?", "a cat", options=("a dog", "a cat"))
BOTH = '{"pairs": [{"question": "Who sat?", "answer": "A cat"}, {"question": "Why?", "answer": "It was tired."}]}'


def read(text: str, finished: bool = True) -> tuple[list[Pair], list[str]]:
    pairs, drops = pairs_of_records(text, finished)
    return pairs, [drop.reason for drop in drops]


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        f"```json\n{BOTH}\n```",
        f"Sure! Here are the questions {{as JSON}}:\n\n```\n{BOTH}\n```\nLet me know if you need more.",
        f"<think>The passage is about a cat, so {{...}}.</think>\n{BOTH}",
        BOTH.replace("}]}", "},]}").replace('"},', '",},'),
        BOTH.replace('"', "'"),
        BOTH.replace('{"', "{“").replace('"}', "”}").replace('": "', "”: “").replace('", "', "”, “"),
        BOTH.replace('"question"', "question").replace('"answer"', "answer"),
        BOTH.replace('", "', '" "'),
        BOTH.replace(", ", ",\n    ").replace("{", "{\n"),
        BOTH.replace("question", "Question").replace("answer", "Answer"),
        BOTH.replace("question", "instruction").replace("answer", "response"),
        BOTH.replace("question", "q").replace('"answer', '"a'),
        BOTH[: BOTH.rindex("}]")],  # the last braces are missing
        BOTH.replace("}, {", ", {"),
        BOTH.replace("}, {", "}\n{"),
        BOTH.removeprefix('{"pairs": ').removesuffix("}"),
        '{"question1": "Who sat?", "answer1": "A cat", "question2": "Why?", "answer2": "It was tired."}',
        "\x00" + BOTH.replace("A cat", "A\x07 cat\x1b"),
        "1. Question: Who sat?\n   Answer: A cat\n2. Question: Why?\n   Answer: It was tired.",
        "1. Question: Who sat? Answer: A cat\n2. Question: Why? Answer: It was tired.\n3.",
        "**Question 1:** Who sat?\n**Answer:** A cat\n\n---\n\n**Question 2:** Why?\n**Answer:** It was tired.",
        "Q: Who sat?\nA: A cat\n\nQ: Why?\nA: It was tired.",
        "- Question: Who sat?\n- Response: A cat\n\n- Question: Why?\n- Response: It was tired.",
        "Q1: Who sat?\nA1: A cat\nQ2: Why?\nA2: It was tired.",
        "- Question: Who sat?\n- Answer: A cat\n- Question: Why?\n- Answer: It was tired.",
    ],
)
def test_two_pairs_are_found(text: str) -> None:
    pairs, reasons = read(text)
    assert pairs == [WHO, WHY]
    assert set(reasons) <= {BROKEN_JSON}


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ('{"question": "Said what?", "answer": "He said "no", twice"}', Pair("Said what?", 'He said "no", twice')),
        ("{'question': 'What's its name?', 'answer': 'It's \\'Tom\\''}", Pair("What's its name?", "It's 'Tom'")),
        ('{"question": "Caf\\u00e9 \\ud83d\\ude00?", "answer": "Two\\nlines"}', Pair("Café 😀?", "Two\nlines")),
        ('{"question": "How many?", "answer": 42.50}', Pair("How many?", "42.50")),
        ('{"question": "True?", "answer": true}', Pair("True?", "true")),
        ('{"question": "Which?", "options": ["a dog", "a cat"], "answer": "a cat"}', OPTIONS),
        ('{"question": "Which?", "options": ["A) a dog", "B) a cat"], "answer": "B"}', OPTIONS),
        ('{"question": "Which?", "options": {"A": "a dog", "B": "a cat"}, "answer": "B) a cat"}', OPTIONS),
        ('{"question": "Which?", "choices": "a dog\\na cat", "correct_answer": "A cat."}', OPTIONS),
        ('{"question": "Which?\\nA. a dog\\nB. a cat", "answer": "b"}', OPTIONS),
        ("Question: Which?\nOptions:\nA) a dog\nB) a cat\nAnswer: B) a cat", OPTIONS),
        (
            '{"question": "How many?", "reasoning": ["Two and two.", "That is four."], "answer": "4"}',
            Pair("How many?", "4", reasoning="Two and two.\nThat is four."),
        ),
    ],
)  # fmt: skip
def test_one_pair_is_found(text: str, pair: Pair) -> None:
    assert read(text) == ([pair], [])


@pytest.mark.parametrize(
    ("text", "finished", "pairs", "reasons"),
    [
        ("", True, [], []),
        (" \n", False, [], []),
        (BOTH[:80], False, [WHO], [CUT_OFF]),
        (BOTH[:80], True, [WHO], [BROKEN_JSON]),
        (BOTH[: BOTH.index("}, {") + 1], False, [WHO], []),
        ("Q: Who sat?\nA: A cat\nQ: Why?\nA: It w", False, [WHO], [CUT_OFF]),
        ("I cannot help with that.", True, [], [NOTHING_FOUND]),
        ("I cannot help with", False, [], [CUT_OFF]),
        ("<think>Well, the passage", False, [], [CUT_OFF]),
        ("<think>Well.</think>", True, [], [NOTHING_FOUND]),
        ('{"summary": "A cat sat."}', True, [], [NOTHING_FOUND]),
        ('{"question": "Who sat?"}', True, [], [NO_ANSWER]),
        ('{"question": "Who sat?", "answer": null}', True, [], [NO_ANSWER]),
        ('{"answer": "A cat"}', True, [], [NO_QUESTION]),
        ('{"question": "...", "answer": "..."}', True, [], [NO_QUESTION]),
        ('{"question": "Who sat?", "answer": "..."}', True, [], [NO_ANSWER]),
        (f'[{{"question": "who  SAT?", "answer": "x"}}, {BOTH}]', True, [Pair("who  SAT?", "x"), WHY], [REPEATED]),
        ('{"question": "Which?", "options": ["a", "b"], "answer": "c"}', True, [], [NOT_AN_OPTION]),
        ('{"question": "Which?", "options": ["a", "b"], "answer": "D"}', True, [], [NOT_AN_OPTION]),
        ('{"question": "Which?", "options": ["a", "a"], "answer": "a"}', True, [], [BAD_OPTIONS]),
        ('{"question": "Who sat?" : "A cat"} ' + BOTH, True, [WHO, WHY], [NO_ANSWER]),
        ('{"question": "Who sat?", 7} ' + BOTH, True, [WHO, WHY], [BROKEN_JSON]),
    ],
)  # fmt: skip
def test_what_is_dropped_has_a_reason(text: str, finished: bool, pairs: list[Pair], reasons: list[str]) -> None:
    assert read(text, finished) == (pairs, reasons)


def test_a_pair_of_the_prompt_is_no_pair_of_the_text() -> None:
    pairs, drops = pairs_of_records(BOTH, True, [Pair("Who sat?", "whatever")])
    assert pairs == [WHY]
    assert [(drop.reason, drop.sample) for drop in drops] == [(COPIED, "Who sat?")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A cat sat.", "A cat sat."),
        ("Here is a summary of the passage:\n\nA cat sat.", "A cat sat."),
        ("Sure, I can do that.\n\nA cat sat.\n\nIt slept.", "A cat sat.\n\nIt slept."),
        ("The passage can be rewritten as follows:\n\nA cat sat.", "A cat sat."),
        ("```text\nA cat sat.\n```", "A cat sat."),
        ("<think>Short.</think>\n\nA cat sat.", "A cat sat."),
        ("Here lived a cat.\nIt sat.", "Here lived a cat.\nIt sat."),
    ],
)
def test_a_response_is_the_text_alone(text: str, answer: str) -> None:
    assert pair_of_text(text, True, "Summarize.") == ([Pair("Summarize.", answer)], [])


@pytest.mark.parametrize(
    ("text", "finished", "reasons"),
    [("A cat s", False, [CUT_OFF]), ("```\n\n```", True, [NO_ANSWER]), ("", True, []), ("<think>a", False, [CUT_OFF])],
)
def test_a_response_that_is_none(text: str, finished: bool, reasons: list[str]) -> None:
    pairs, drops = pair_of_text(text, finished, "Summarize.")
    assert (pairs, [drop.reason for drop in drops][:1]) == ([], reasons)


HUGE = 10_000_000


@pytest.mark.parametrize(
    "unit",
    ["{", '"', "{'", '{“', "a ", '{"q": "', '{"a": [', "Question: ", "\\", '"' + " " * 50, '{"q": "a" "', "\n1. "],
)  # fmt: skip
def test_ten_megabytes_of_anything_take_seconds(unit: str) -> None:
    began = time.process_time()
    _, drops = pairs_of_records(unit * (HUGE // len(unit)), False)
    assert drops[0].reason == TOO_MUCH
    assert time.process_time() - began < 20


def test_nothing_after_the_limit_is_read() -> None:
    assert read(" " * 1_000_000 + BOTH) == ([], [TOO_MUCH])


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=20).filter(
    lambda text: any(character.isalpha() for character in text)
)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=5), st.booleans())
def test_valid_json_is_read_exactly(written: list[tuple[str, str]], ascii_only: bool) -> None:
    records = [{"question": question, "answer": answer} for question, answer in written]
    found = list(read_objects(json.dumps({"pairs": records}, ensure_ascii=ascii_only)))
    assert found == [*records, {"pairs": records}]


NAMES = st.sampled_from(["a", "b", "names"])
LEAVES = st.none() | st.text(max_size=12)
VALUES = LEAVES | st.lists(LEAVES | st.dictionaries(NAMES, LEAVES), max_size=4) | st.dictionaries(NAMES, LEAVES)


@given(st.dictionaries(NAMES, VALUES))
def test_nested_json_is_read_exactly(value: dict[str, Any]) -> None:
    assert list(read_objects(json.dumps(value)))[-1] == value


@given(st.data())
def test_every_beginning_gives_the_complete_pairs(data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(BOTH)))
    pairs, reasons = read(BOTH[:end], finished=False)
    assert pairs == [WHO, WHY][: BOTH[:end].count("}")]
    assert reasons in ([], [CUT_OFF])


PIECES = st.sampled_from(
    [*'{}[]",:\'“”\\\n', "question", "answer", "options", "null", "Question:", "Answer: ", "A) ", "a", "1. ", "```",
     "\ud800", "<think>", "</think>", "\x00", "True"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(st.characters()), st.booleans())
def test_nothing_raises_and_nothing_vanishes(text: str, finished: bool) -> None:
    pairs, drops = pairs_of_records(text, finished)
    assert pairs or drops or not text.strip()
    for pair in pairs:
        assert pair.question and pair.answer and clean(pair.question) == pair.question
        json.dumps(pair).encode()
    assert all(drop.reason for drop in drops)
    response, reasons = pair_of_text(text, finished, "Do it.")
    assert response or reasons or not text.strip()
    assert all(isinstance(found, (dict, Broken)) for found in read_objects(text))
