import pytest

from megatron_ipt.augment.options import cites_letter, correct_option, distinct, lower, number, roman, upper


def test_letters_go_on_after_z():
    assert [upper(index) for index in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip
    assert lower(27) == "ab"
    assert len({upper(index) for index in range(2000)}) == 2000


def test_numerals():
    assert [roman(index) for index in (0, 3, 8, 13, 39, 89, 399, 899, 1993)] == [
        "i", "iv", "ix", "xiv", "xl", "xc", "cd", "cm", "mcmxciv",
    ]  # fmt: skip
    assert number(9) == "10"


@pytest.mark.parametrize(
    ("options", "answer", "correct"),
    [
        (["Paris", "Rome"], "Rome", 1),
        (["Paris", "Rome."], "rome", 1),
        (["Paris", "Rome"], " ROME. ", 1),
        (["New  York", "Rome"], "New York", 0),
        (["us", "US"], "US", 1),
        (["us", "US"], "Us", None),
        (["Paris", "Rome"], "Madrid", None),
        (["Paris", "Rome"], "", None),
        ([], "Rome", None),
    ],
)
def test_the_right_option(options, answer, correct):
    assert correct_option(options, answer) == correct


def test_repeated_options_count_once():
    assert distinct(["b", "a", "b"]) == ["b", "a"]


@pytest.mark.parametrize(
    "reasoning",
    [
        "x = 5. Answer D",
        "Correct answer - A",
        "ANSWER :C",
        "correct option is C",
        "so we choose (B) here",
        "5\nE",
        "Ans: B.",
    ],
)
def test_reasoning_that_names_a_letter(reasoning):
    assert cites_letter(reasoning)


@pytest.mark.parametrize(
    "reasoning", ["A train needs 5 hours.", "x = 5 km.", "The answer is Amsterdam.", "This choice is a good one.", ""]
)
def test_reasoning_that_names_none(reasoning):
    assert not cites_letter(reasoning)
