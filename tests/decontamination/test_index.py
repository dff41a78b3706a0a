"""The rule: worked out by hand, against a comparison of every row of words, and against another implementation."""

from __future__ import annotations

import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.decontamination.index import Index, Match, Question, batches

HIVE = "How many frames does a hive of two boxes with ten frames each hold after one is broken?"
THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def questions(*texts: str, test_set: str = "test.jsonl") -> list[Question]:
    return [Question(test_set, number, text) for number, text in enumerate(texts, 1)]


def held(text: str, *tests: str, ngram: int = 13) -> list[int]:
    """Numbers of the tests that ``text`` holds."""
    (found,) = Index(questions(*tests), ngram).find([text])
    return [match.question.number for match in found]


def test_thirteen_words_in_a_row_of_a_long_question() -> None:
    # Twelve in a row, and another word.
    nearly = "say how many frames does a hive of two boxes with ten frames hold"
    assert held(nearly, HIVE) == []
    assert held(nearly, HIVE, ngram=12) == [1]
    assert held("say how many frames does a hive of two boxes with ten frames each hold", HIVE) == [1]
    assert held("A hive of two boxes with ten frames each holds how many?", HIVE) == []


def test_twelve_words_of_the_hive_are_not_enough_and_thirteen_are() -> None:
    words = HIVE.rstrip("?").split()
    assert len(words) == 18
    for start in range(6):
        assert held(f"well {' '.join(words[start : start + 12])} then", HIVE) == []
        assert held(f"well {' '.join(words[start : start + 13])} then", HIVE) == [1]


@pytest.mark.parametrize("count", [4, 11, 12])
def test_a_short_question_needs_all_its_words(count: int) -> None:
    words = THIRTEEN.split()
    test = " ".join(words[:count])
    assert held(f"zero {test} end", test) == [1]
    assert held(f"zero {' '.join(words[: count - 1])} end", test) == []
    assert held(f"zero {' '.join(words[1:count])} end", test) == []
    assert held(f"{words[0]} x {' '.join(words[1:count])}", test) == []


def test_thirteen_and_fourteen_words() -> None:
    words = THIRTEEN.split()
    assert held(f"zero {THIRTEEN} fourteen", THIRTEEN) == [1]
    assert held(" ".join(words[:12]), THIRTEEN) == []
    fourteen = f"{THIRTEEN} fourteen"
    assert held(f"x {THIRTEEN} x", fourteen) == [1]
    assert held(f"{' '.join(words[1:])} fourteen", fourteen) == [1]
    assert held(f"{' '.join(words[1:])} x", fourteen) == []


@pytest.mark.parametrize("test", ["Why?", "Who is he?", "He   is who"])
def test_very_short_questions_are_compared_as_a_whole(test: str) -> None:
    assert held(test.upper(), test) == [1]
    assert held(f"{test} Indeed.", test) == []
    assert held(f"So: {test}", test) == []


def test_case_marks_layout_and_unicode_forms_make_no_difference() -> None:
    test = "Où est né le café crème, déjà à Paris ou à Straßburg en 1920 ?"
    decomposed = unicodedata.normalize("NFD", test)
    assert decomposed != test
    for text in (test.upper(), decomposed, test.replace(" ", "\n\n -- "), test.replace("1920", "１９２０")):
        assert held(f"Avant. {text} Après.", test) == [1], text
    assert held(test.replace("crème", "creme"), test) == []


def test_words_do_not_go_on_in_the_next_text() -> None:
    words = HIVE.split()
    index = Index(questions(HIVE, "a hive of two boxes"))
    assert index.find([" ".join(words[:8]), " ".join(words[8:]), "", "A hive of two", "boxes"]) == [()] * 5
    assert index.find(["", HIVE, ""])[1][0].question.number == 1


def test_what_is_reported() -> None:
    index = Index([*questions("the size of a hive"), *questions(HIVE, test_set="other")])
    (found,) = index.find(
        ["Ah! The size of a hive. How many frames does a hive of two boxes with ten frames EACH hold!"]
    )
    assert [(match.question.test_set, match.question.number, match.start) for match in found] == [
        ("test.jsonl", 1, 1),
        ("other", 1, 6),
    ]
    # All that stands in a row, not only thirteen of it.
    assert " ".join(found[1].words) == "how many frames does a hive of two boxes with ten frames each hold"


def test_the_first_question_of_each_test_set_is_named() -> None:
    again = [*questions(HIVE, HIVE), *questions("x", HIVE, test_set="other")]
    (found,) = Index(again).find([HIVE])
    assert [(match.question.test_set, match.question.number) for match in found] == [("test.jsonl", 1), ("other", 2)]


def test_questions_without_words_and_short_ones_are_counted() -> None:
    index = Index(questions("???", "", "Why?", HIVE))
    assert (index.without_words, index.short, len(index.questions)) == (2, 1, 2)
    assert index.find(["!!!", ""]) == [(), ()]
    assert Index([]).find(["a text"]) == [()]
    assert index.find([]) == []


def test_another_number_of_words() -> None:
    assert held("a hive of two boxes with ten frames", HIVE, ngram=8) == [1]
    assert held("a hive of two boxes with ten", HIVE, ngram=8) == []
    assert held("many frames does a hive of two boxes with ten frames each hold", HIVE, ngram=14) == []


def test_equal_hashes_of_different_words_drop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of words has the same hash: what is found is still what has the words."""
    monkeypatch.setattr(
        "megatron_ipt.decontamination.index._word_hashes", lambda codes, starts, ends: np.zeros(len(starts), np.uint64)
    )
    index = Index(questions("one two three four", "five six seven eight"))
    found = index.find(["nine one two three four", "five six seven nine", "a b c d e f", "zero five six seven eight"])
    assert [[match.question.number for match in matches] for matches in found] == [[1], [], [], [2]]


def reference(text: str, tests: list[str], ngram: int) -> set[int]:
    """The rule as one would write it down, with words of its own."""

    def words(of: str) -> list[str]:
        whole = unicodedata.normalize("NFKC", of).casefold()
        return "".join(character if character.isalnum() else " " for character in whole).split(" ")

    def clean(of: str) -> list[str]:
        return [word for word in words(of) if word]

    have = clean(text)
    found = set()
    for number, test in enumerate(tests, 1):
        want = clean(test)
        if 0 < len(want) < 4:
            if have == want:
                found.add(number)
            continue
        length = min(len(want), ngram)
        rows = {tuple(want[start : start + length]) for start in range(len(want) - length + 1)} if want else set()
        if any(tuple(have[start : start + length]) in rows for start in range(len(have) - length + 1)):
            found.add(number)
    return found


_WORDS = st.sampled_from(["a", "B", "ß", "é", "e\u0301", "x1", "_", "-", "ſ", "Ⅳ"])
_TEXTS = st.lists(_WORDS, max_size=12).map(" ".join)


@settings(max_examples=300)
@given(st.lists(_TEXTS, max_size=5), st.lists(_TEXTS, max_size=5), st.integers(4, 7))
def test_against_a_comparison_of_all_rows(texts: list[str], tests: list[str], ngram: int) -> None:
    # Each question is a test set, so that all of them are named.
    index = Index([Question(f"set {number}", number, test) for number, test in enumerate(tests, 1)], ngram)
    for text, found in zip(texts, index.find(texts)):
        assert {match.question.number for match in found} == reference(text, tests, ngram)
        for match in found:
            assert len(match.words) >= min(4, ngram) or len(match.words) < 4


def test_planted_questions_are_all_found_and_nothing_else() -> None:
    rng = random.Random(7)
    vocabulary = [f"word{number}" for number in range(400)]
    tests = [" ".join(rng.choices(vocabulary, k=rng.randint(4, 60))) for _ in range(2000)]
    texts, planted = [], []
    for _ in range(1500):
        words = rng.choices(vocabulary, k=rng.randint(1, 400))
        number = rng.randrange(len(tests))
        row = tests[number].split()
        kind = rng.choice(["clean", "planted", "nearly"])
        if kind != "clean":
            length = min(len(row), 13) - (kind == "nearly")
            start = rng.randint(0, len(row) - length)
            place = rng.randint(0, len(words))
            words[place:place] = ["before", *(word.upper() for word in row[start : start + length]), "after"]
        texts.append(", ".join(words))
        planted.append(number if kind == "planted" else None)
    index = Index(Question("t", number, test) for number, test in enumerate(tests))
    found: list[tuple[Match, ...]] = []
    for batch in batches((text, [text]) for text in texts):
        found += index.find([text for text, _ in batch])
    assert len(found) == len(texts)
    wrong = [
        (number, matches)
        for number, matches in zip(planted, found)
        if (number is None) != (not matches)
        or (number is not None and number not in {m.question.number for m in matches})
    ]
    # Every planted one is found. What else is found could only be there by chance: four words of 400 in a row.
    assert all(number is None for number, _ in wrong)
    assert len(wrong) <= 0.01 * sum(number is not None for number in planted)


def test_the_same_thirteen_words_as_the_janitor_of_lm_evaluation_harness() -> None:
    janitor_module = pytest.importorskip("lm_eval.decontamination.janitor")
    rng = random.Random(3)
    vocabulary = [f"w{number}" for number in range(12)]
    tests = [" ".join(rng.choices(vocabulary, k=rng.randint(13, 30))) for _ in range(40)]
    texts = [" ".join(rng.choices(vocabulary, k=100)) for _ in range(30)]
    for number in range(0, 30, 2):
        row = rng.choice(tests).split()
        start = rng.randint(0, len(row) - 13)
        texts[number] = f"{texts[number]}. {' '.join(row[start : start + 13]).upper()}, {texts[number]}"
    janitor = janitor_module.Janitor(ngram_n=13)
    for test in tests:
        janitor.register_contaminant_python(test)
    index = Index(questions(*tests))
    for text, found in zip(texts, index.find(texts)):
        normalised = janitor.normalize_string(text)
        ngrams = {" ".join(ngram.split()) for ngram in janitor_module.word_ngrams(normalised, 13)}
        assert bool(found) == bool(ngrams & janitor.dirt_ngrams)
    assert sum(bool(found) for found in index.find(texts)) >= 15


@given(st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=30))
def test_batches_hold_everything_once(texts: list[list[str]]) -> None:
    grouped = list(batches(enumerate(texts)))
    assert [entry for batch in grouped for entry in batch] == list(enumerate(texts))
    assert all(grouped)


def test_batches_end_where_they_are_large_enough() -> None:
    grouped = list(batches((number, ["x" * 100_000]) for number in range(7)))
    assert [len(batch) for batch in grouped] == [3, 3, 1]


def test_words_are_those_of_the_whole_package() -> None:
    text = "Snake_case, naïve co-op № 5: x² = ½"
    (found,) = Index(questions(text)).find([f"({text})"])
    assert [word for match in found for word in match.words] == re.findall(
        r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()
    )
