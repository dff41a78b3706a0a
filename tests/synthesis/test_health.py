"""What is said about answers, and when."""

from __future__ import annotations

import pytest

from megatron_ipt.synthesis.from_text.prompted.health import Answer, Finding, Health, copied, no_pairs, shortened


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


@pytest.mark.parametrize(("with_pairs", "expected"), [(4, [(100, "few pairs")]), (5, [])])
def test_few_pairs(with_pairs: int, expected: list[tuple[int, str]]) -> None:
    """Below 5 of 100; the first of them spares the warning after 10."""
    answers = [good(n) if n < with_pairs else Answer(f"prose {n}", True, False, 0) for n in range(100)]
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
    assert kinds(answers) == [(100, "cut off")]


@pytest.mark.parametrize(("limit", "count", "unusable"), [(5, 4, False), (5, 5, True), (None, 5_000, False)])
def test_when_to_give_up(limit: int | None, count: int, unusable: bool) -> None:
    health, proven = Health(limit), Health(limit, proven=True)
    for number in range(count):
        for each in (health, proven):
            each.add(Answer(f"prose {number}", True, False, 0, ("without </END>",)))
    assert health.unusable == unusable and not proven.unusable
    assert health.dropped == {"without </END>": count}
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
