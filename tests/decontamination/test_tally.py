"""Counts over shards, and which samples are kept."""

from __future__ import annotations

from megatron_ipt.decontamination.index import Match, Question
from megatron_ipt.decontamination.tally import Tally, sample_of, total_of

TEXT = " ".join(f"w{number}" for number in range(100))


def match(test_set: str, number: int, start: int = 20, length: int = 13) -> Match:
    words = tuple(TEXT.split()[start : start + length])
    return Match(Question(test_set, number, f"Question {number}?"), start, words)


def test_a_sample_is_the_words_in_common_and_twelve_around_them() -> None:
    sample = sample_of(TEXT, match("a", 1))
    assert sample["before"].split() == [f"w{number}" for number in range(8, 20)]
    assert sample["words"].split() == [f"w{number}" for number in range(20, 33)]
    assert sample["after"].split() == [f"w{number}" for number in range(33, 45)]
    assert sample_of(TEXT, match("a", 1, 0, 4))["before"] == ""


def test_the_middle_of_many_words_is_left_out() -> None:
    words = sample_of(TEXT, match("a", 1, 0, 90))["words"].split()
    assert words == [*(f"w{number}" for number in range(30)), "...", *(f"w{number}" for number in range(60, 90))]


def test_something_that_holds_two_questions_counts_once_for_a_set() -> None:
    tally = Tally()
    tally.add_matches("pairs", "x", [("question", TEXT, match("a", 1)), ("answer", TEXT, match("a", 2))])
    tally.add_matches("texts", "y", [("text", TEXT, match("a", 1)), ("text", TEXT, match("b", 1))])
    assert tally.test_sets == {"a": {"pairs": 1, "texts": 1}, "b": {"texts": 1}}
    assert dict(tally.questions) == {("a", 1, "Question 1?"): 2, ("a", 2, "Question 2?"): 1, ("b", 1, "Question 1?"): 1}
    assert [(sample["id"], sample["part"], sample["number"]) for sample in tally.samples] == [
        ("x", "question", 1),
        ("y", "text", 1),
    ]


def test_shards_add_up_in_their_order() -> None:
    shards = []
    for shard in range(4):
        tally = Tally()
        for number in range(5):
            tally.add_matches("pairs", f"{shard}-{number}", [("question", TEXT, match("ab"[shard % 2], number))])
        tally.counts["pairs"] = 10
        tally.dropped["pair holds a test question"] = 5
        shards.append(tally.to_json())
    total = total_of(shards)
    assert [sample["id"] for sample in total.samples] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    summary = total.summary()
    assert (summary["pairs"], summary["compared"], summary["questions_found"]) == (40, 60, 10)
    assert summary["test_sets"] == {"a": {"pairs": 10}, "b": {"pairs": 10}}
    assert [row["found"] for row in summary["questions"]] == [2] * 10
    # 10 of 60, and never fewer than ten times.
    assert summary["large_test_sets"] == {"a": 0.1667, "b": 0.1667} and summary["frequent"] == []
