"""What is said about answers, and when."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_ipt.inference.engine import Completion
from megatron_ipt.synthesis.from_text.prompted.health import (
    Answer,
    Finding,
    Health,
    copied,
    declined,
    judged,
    no_pairs,
    shortened,
)
from megatron_ipt.synthesis.from_text.prompted.language import in_another_language
from megatron_ipt.synthesis.pairs import Pair


def good(number: int) -> Answer:
    return Answer(f"answer {number}", finished=True, copied=False, pairs=2)


def findings(answers: list[Answer], give_up_after: int | None = None) -> list[tuple[int, Finding]]:
    """Each finding with the number of answers after which it came."""
    health = Health(give_up_after)
    return [(number, finding) for number, answer in enumerate(answers, 1) for finding in health.add(answer)]


def kinds(answers: list[Answer]) -> list[tuple[int, str]]:
    return [(number, finding.kind) for number, finding in findings(answers)]


def test_good_answers_raise_no_alarm() -> None:
    assert findings([good(number) for number in range(1_200)]) == []


def test_nine_answers_are_too_few_to_judge() -> None:
    answers = [Answer(f"prose {number}", True, False, 0) for number in range(10)]
    assert kinds(answers[:9]) == []
    ((number, finding),) = findings(answers)
    assert (number, finding.kind) == (10, "few pairs")
    assert "none of the first 10 answers gave a pair" in finding.message and "'prose 0'" in finding.message


@pytest.mark.parametrize(
    ("with_pairs", "expected"),
    [
        (4, [(10, "half without pairs"), (100, "few pairs")]),
        (5, [(30, "half without pairs")]),
        (15, []),
    ],
)
def test_few_pairs(with_pairs: int, expected: list[tuple[int, str]]) -> None:
    """Below 5 of 100, or below half of those so far; the first are the good ones."""
    answers = [good(n) if n < with_pairs else Answer(f"prose {n}", True, False, 0) for n in range(30)]
    answers += [Answer(f"prose {n}", True, False, 0) for n in range(30, 100)] if with_pairs < 5 else []
    assert kinds(answers) == expected


@pytest.mark.parametrize(("defects", "expected"), [(5, []), (6, ["d"])])
@pytest.mark.parametrize("kind", ["cut off", "copied", "same answer"])
def test_defects_of_more_than_half(kind: str, defects: int, expected: list[str]) -> None:
    bad = {
        "cut off": lambda n: Answer(f"answer {n}", False, False, 2),
        "copied": lambda n: Answer(f"answer {n}", True, True, 2),
        "same answer": lambda n: Answer(" the  same\n", True, False, 2),
    }[kind]
    answers = [bad(n) if n < defects else good(n) for n in range(10)]
    assert kinds(answers) == [(10, kind) for _ in expected]


def test_each_finding_comes_once_and_late_ones_come_late() -> None:
    answers = [Answer(f"answer {n}", n < 10, False, 2) for n in range(1_000)]
    assert kinds(answers) == [(30, "cut off")]


@pytest.mark.parametrize(("limit", "count", "unusable"), [(5, 4, False), (5, 5, True), (None, 5_000, False)])
def test_when_to_give_up(limit: int | None, count: int, unusable: bool) -> None:
    health, proven = Health(limit), Health(limit, proven=True)
    for number in range(count):
        for each in (health, proven):
            each.add(Answer(f"prose {number}", True, False, 0, ("empty answer",)))
    assert health.unusable == unusable and not proven.unusable
    assert health.dropped == {"empty answer": count}
    assert health.samples == ["prose 0", "prose 1", "prose 2"]


def test_copied() -> None:
    prompt = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    assert copied(prompt.replace(" ", "\n"), f"<CON> {prompt} </CON>")
    assert not copied("one two three four five six seven", prompt)  # Shorter than a stretch.
    assert not copied(" ".join(prompt.split()[:8] + ["new"] * 8), prompt)  # Half of it.
    assert not copied("", prompt)


def test_samples_are_safe_to_print_and_short() -> None:
    assert shortened("a\x1b[31m\nb\x00\u202ec") == "a[31m bc"
    assert shortened("x" * 200) == "x" * 200
    assert shortened("x" * 201) == "x" * 199 + "…"


def test_the_error_names_what_was_seen() -> None:
    error = no_pairs(1, {}, [""], "chat", "")
    assert error.exit_status == 6
    assert "the only text got no pair\n" in str(error) and "  (empty)\n" in str(error)
    assert "synthesis.prompt=chat" in str(error)


@pytest.mark.parametrize(
    ("reason", "limit", "count", "unusable"),
    [
        ("without </END>", 50, 19, False),
        ("without </END>", 50, 20, True),  # Nothing looked like a pair.
        ("empty answer", 50, 20, False),
        ("empty answer", 50, 50, True),
        ("without </END>", 10, 10, True),
        ("without </END>", None, 500, False),
    ],
)
def test_a_hopeless_model_is_given_up_earlier(reason: str, limit: int | None, count: int, unusable: bool) -> None:
    health = Health(limit)
    for number in range(count):
        health.add(Answer(f"prose {number}", True, False, 0, (reason,)))
    assert health.unusable == unusable


def about(number: int, **fields: Any) -> Answer:
    return Answer(f"answer {number}", True, False, 2, questions=(f"what is {number}?",), **fields)


@pytest.mark.parametrize(
    ("kind", "bad", "of_ten", "expected"),
    [
        ("language", {"other_language": True}, 6, True),
        ("language", {"other_language": True}, 5, False),
        ("declined", {"declined": True}, 6, True),
        ("declined", {"declined": True}, 5, False),
        ("example", {"from_example": True}, 6, True),
        ("example", {"from_example": True}, 5, False),
        ("not about the text", {"short": 3, "not_in_text": 3}, 9, True),  # 27 of 30
        ("not about the text", {"short": 3, "not_in_text": 3}, 8, False),  # 24 of 30
    ],
)
def test_further_defects(kind: str, bad: dict[str, Any], of_ten: int, expected: bool) -> None:
    fine = {"other_language": False, "short": 3}
    answers = [about(n, **(fine | bad if n < of_ten else fine)) for n in range(10)]
    assert kinds(answers) == ([(10, kind)] if expected else [])


def test_the_languages_of_most_answers_must_be_clear() -> None:
    assert kinds([about(n, other_language=True if n < 4 else None) for n in range(10)]) == []
    assert kinds([about(n, other_language=True if n < 5 else None) for n in range(10)]) == [(10, "language")]


def test_the_same_questions_for_different_texts() -> None:
    def asked(number: int, *questions: str) -> Answer:
        return Answer(f"answer {number}", True, False, 2, questions=questions)

    same = [asked(n, "what is it?", f"what is {n % 2}?") for n in range(10)]
    assert kinds(same) == [(10, "same questions")]  # The first two were new.
    # One new question is enough, and answers without questions of their own do not count.
    assert kinds([asked(n, "what is it?", f"what is {n}?") for n in range(10)]) == []
    assert kinds([asked(n) if n % 3 else asked(n, f"what is {n}?") for n in range(10)]) == []


TEXT = "In 1932 the bridge was opened. It is the longest of its kind, and it crosses the harbour of the old city."


def seen(answer: str, *pairs: Pair, dropped: tuple[str, ...] = (), wordings: tuple[str, ...] = ()) -> Answer:
    return judged(TEXT, f"<CON> {TEXT} </CON>", Completion([], answer, True, 1), pairs, dropped, frozenset(wordings))


def test_what_is_seen_in_an_answer() -> None:
    good = seen(
        "...",
        Pair("When was the bridge  opened?", "In 1932"),
        Pair("What does it cross?", "the harbour", options=("the harbour", "a river")),
        Pair("Is it long?", "Yes, it is"),
    )
    assert (good.short, good.not_in_text, good.questions[0]) == (1, 0, "when was the bridge opened?")
    assert good.counts() == {"short_answers": 1}
    made_up = seen("...", Pair("Who built it?", "Ann Smith"), Pair("Why?", "For trains"), Pair("What is it?", "Bridge"))
    assert (made_up.short, made_up.not_in_text) == (3, 2)
    summary = seen("It opened.", Pair("Summarize the text.", "Ann Smith"), wordings=("Summarize the text.",))
    assert (summary.short, summary.questions) == (0, ())
    assert seen("x", dropped=("copied from the example in the prompt",)).from_example
    assert not seen("x", Pair("Why?", "z"), dropped=("copied from the example in the prompt",)).from_example
    german = seen(
        "<QUE> x", Pair("Wann wurde die Brücke eröffnet?", "Sie wurde im Jahr 1932 und nicht später eröffnet.")
    )
    assert german.other_language and german.counts()["answers_in_another_language"] == 1


def test_words_cannot_be_compared_in_a_text_without_spaces() -> None:
    text = "这座桥于1932年开通。它横跨老城的港口，是同类桥梁中最长的一座。"
    answer = judged(text, text, Completion([], "", True, 1), [Pair("何时开通？", "很久以前")], (), frozenset())
    assert (answer.short, answer.not_in_text) == (0, 0) and answer.other_language is False


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, I am only a model.", True),
        ("As an AI language model, I have no access to it.", True),
        ("<think>Easy.</think>\n\nI cannot assist with this request.", True),
        ("Sorry, that is not possible.", True),
        ("As an aide, she wrote letters.", False),
        ("I can see the bridge.", False),
        ('{"pairs": [{"question": "I cannot?", "answer": "x"}]}', False),
        ("", False),
    ],
)
def test_declined(answer: str, expected: bool) -> None:
    assert declined(answer) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("The bridge is in the old city and it was opened in 1932.", False),
        ("Die Brücke ist in der alten Stadt und wurde im Jahr 1932 eröffnet.", True),
        ("Мост был открыт в 1932 году.", True),
        ("这座桥于很久以前开通，横跨老城的港口。", True),
        ("Ann Smith", None),
        ("", None),
    ],
)
def test_another_language(other: str, expected: bool | None) -> None:
    assert in_another_language(TEXT, other) == expected


def test_tasks_that_the_model_cannot_do_are_named() -> None:
    """What a small chat model does: it summarizes, and does not write questions."""
    answers = [
        Answer(f"answer {n}", True, False, int(n % 3 != 0), task=("questions", "summary", "distilled")[n % 3])
        for n in range(30)
    ]
    ((number, finding),) = findings(answers)
    assert (number, finding.kind) == (30, "tasks")
    assert "answers with pairs: questions (0 of 10). Leave these out" in finding.message


@pytest.mark.parametrize(("count", "expected"), [(9, []), (12, ["cut off"]), (1_001, [])])
def test_what_is_seen_between_checkpoints_is_said_at_the_end(count: int, expected: list[str]) -> None:
    health = Health(None)
    for number in range(count):
        # Not yet most of the first 10, but most of the first 12.
        health.add(Answer(f"answer {number}", 5 <= number < 10 or number >= 12, False, 2))
    assert [finding.kind for finding in health.at_end()] == expected
    assert health.at_end() == []
