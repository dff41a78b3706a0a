"""Near-duplicates: similarity worked out by hand, the same answer for any division, nothing dropped below the
threshold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.synthesis.near_duplicates import NearDuplicates, rows_and_bands, similarity

QUEEN = "How many eggs does a queen bee lay in one summer?"


def test_what_differs_in_case_marks_and_layout_is_a_near_duplicate() -> None:
    seen: NearDuplicates[str] = NearDuplicates()
    assert seen.find("a", QUEEN) is None
    assert seen.find("b", "how many EGGS does a queen bee\nlay, in one summer") == "a"
    assert seen.find("c", "Ｈow many eggs does a queen bee lay in one summer?") == "a"
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 12 pairs of adjacent words with the edges; another last word changes 2 of them: 10 of 14.
        ("How many eggs does a queen bee lay in one winter?", 10 / 14),
        # One word more: 11 of 12 stay, 13 here: 11 of 14.
        ("How many eggs does a young queen bee lay in one summer?", 11 / 14),
        ("Why do drones leave their hive?", 0.0),
        (QUEEN, 1.0),
    ],
)
def test_similarity(text: str, expected: float) -> None:
    assert similarity(QUEEN, text) == pytest.approx(expected)


def test_a_word_more_in_twelve_is_similar_enough() -> None:
    twelve = "When is the best time of day to look into a hive?"
    more = "When is the very best time of day to look into a hive?"
    # 13 pairs, 14 pairs, 12 in both: 12 of 15.
    assert similarity(twelve, more) == pytest.approx(0.8)
    seen: NearDuplicates[int] = NearDuplicates(0.8)
    assert [earlier for _, earlier in seen.find_all([(1, twelve), (2, more)])] == [None, 1]


def test_the_most_similar_one_is_named() -> None:
    seen: NearDuplicates[str] = NearDuplicates(0.5)
    assert seen.find("winter", "How many eggs does a queen bee lay in one cold winter?") is None
    assert seen.find("other", "When do drones leave the hive?") is None
    base = "How many eggs does a queen bee lay in one cold day?"
    assert seen.find("day", base) == "winter"
    exact: NearDuplicates[str] = NearDuplicates(0.85)
    assert exact.find("winter", "How many eggs does a queen bee lay in one cold winter?") is None
    assert exact.find("day", base) is None
    assert exact.find("again", base) == "day"


def test_a_chain_of_small_changes_is_not_one_text() -> None:
    """A near-duplicate is not compared with: the third is similar to the second, which is left out, only."""
    text = "when is the best time of day to look into a hive of bees in spring or summer"
    words = text.split()
    second = [*words[:9], "carefully", *words[9:]]
    third = [*second[:4], "possible", *second[4:]]
    texts = [" ".join(parts) for parts in (words, second, third)]
    assert similarity(texts[0], texts[1]) >= 0.82 > similarity(texts[0], texts[2])
    assert similarity(texts[1], texts[2]) >= 0.82
    seen: NearDuplicates[int] = NearDuplicates(0.82)
    assert [earlier for _, earlier in seen.find_all(enumerate(texts))] == [None, 0, None]


def test_texts_without_words_are_never_near_duplicates() -> None:
    seen: NearDuplicates[int] = NearDuplicates()
    assert [earlier for _, earlier in seen.find_all([(1, "???"), (2, "???"), (3, "")])] == [None, None, None]
    assert len(seen) == 0


def test_the_same_answer_for_any_division_into_calls() -> None:
    texts = list(enumerate(_questions(random.Random(1), 2500)))
    whole: NearDuplicates[int] = NearDuplicates()
    single: NearDuplicates[int] = NearDuplicates()
    expected = [earlier for _, earlier in whole.find_all(texts)]
    assert [single.find(key, text) for key, text in texts] == expected
    assert any(earlier is not None for earlier in expected)


def test_found_are_those_that_a_comparison_with_all_finds() -> None:
    texts = _questions(random.Random(2), 400)
    kept: list[str] = []
    expected = []
    for text in texts:
        similar = any(similarity(text, other) >= 0.8 for other in kept)
        expected.append(similar)
        if not similar:
            kept.append(text)
    seen: NearDuplicates[int] = NearDuplicates()
    found = [earlier is not None for _, earlier in seen.find_all(enumerate(texts))]
    # Where MinHash misses one, which happens to one in a hundred at the threshold, later answers may differ, too.
    assert sum(left != right for left, right in zip(found, expected)) <= 0.02 * sum(expected)
    assert sum(expected) > 100


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab c", max_size=12), max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_nothing_below_the_threshold_is_found(texts: list[str], threshold: float) -> None:
    seen: NearDuplicates[int] = NearDuplicates(threshold)
    for (_, text), earlier in list(seen.find_all(enumerate(texts))):
        assert earlier is None or similarity(text, texts[earlier]) >= threshold


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_at_most_one_in_a_hundred(threshold: float) -> None:
    rows, bands = rows_and_bands(threshold)
    assert (1 - threshold**rows) ** bands <= 0.01
    assert rows * bands <= 256


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01])
def test_a_threshold_that_is_no_similarity_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        NearDuplicates(threshold)


def _questions(rng: random.Random, count: int) -> list[str]:
    """Questions of which about half repeat an earlier one with a word more, less or changed."""
    words = [f"w{number}" for number in range(300)]
    found: list[list[str]] = []
    for _ in range(count):
        if found and rng.random() < 0.5:
            text = list(rng.choice(found))
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 1)] = rng.choice([[], [rng.choice(words)]])
        else:
            text = rng.choices(words, k=rng.randint(6, 25))
        found.append(text or ["w"])
    return [" ".join(text) for text in found]
