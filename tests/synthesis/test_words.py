"""Words: worked out by hand, and character by character."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.synthesis.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How many, 3.5 or 4?", ["how", "many", "3", "5", "or", "4"]),
        ("snake_case isn't CamelCase", ["snake", "case", "isn", "t", "camelcase"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("ﬁre № ２", ["fire", "no", "2"]),
        ("Ωμέγα ΩΜΈΓΑ", ["ωμέγα", "ωμέγα"]),
        ("x² + y", ["x2", "y"]),
        ("-- … !", []),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text())
def test_words_are_runs_of_letters_and_digits(text: str) -> None:
    whole = unicodedata.normalize("NFKC", text).casefold()
    characters = "".join(character if character.isalnum() else " " for character in whole)
    assert words_of(text) == re.split(" +", characters.strip(" ")) if characters.strip(" ") else words_of(text) == []
