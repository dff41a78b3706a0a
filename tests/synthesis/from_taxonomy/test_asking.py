"""Loops in answers, and prompts for a model whose tokenizer is not here."""

from __future__ import annotations

import json

import pytest

from megatron_ipt.synthesis.from_taxonomy.asking import loops

SYLLABUS = "\n\n".join(f"Session {number}\nKey concepts:\n- wax {number}\n- comb {number}" for number in range(1, 12))
PRETTY = json.dumps(
    [{"subject": f"S{number}", "level": "beginner", "subtopics": ["a"]} for number in range(9)], indent=2
)
CODE = "\n".join(f"if x == {number}:\n    return False" for number in range(9))


@pytest.mark.parametrize("text", ["", "word", SYLLABUS, PRETTY, CODE, "-" * 80, "ha " * 30, "1, 2, 3, " * 3])
def test_answers_that_go_on(text: str) -> None:
    assert not any(loops(text[:end]) for end in range(0, len(text), 7))
    assert not loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "It begins well. " + "There is a combination of both. " * 8,
        "A list:\n" + "- The same line of a list that never ends\n" * 5,
        "." * 200,
        "x" + "\n\nYour answer:\n\nThis is the syllabus for the subject.\n\nSECTION" * 4,
    ],
)
def test_answers_that_turn_in_circles(text: str) -> None:
    assert loops(text)
