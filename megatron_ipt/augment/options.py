"""Options of multiple-choice pairs: which one is correct, and how they are lettered."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

_CITED_LETTER = re.compile(
    r"(?i:\b(?:options?|answers?|ans|choices?|alternatives?|choose|pick|select)\b)"
    r"(?:[^\w\n]{0,4}(?i:is|are|was|be|option|choice|answer|the|correct)\b){0,3}[^\w\n]{0,4}[A-Z]\b(?!')"
    r"|\([A-Z]\)"
    r"|^\W*[A-Z]\W*$",
    re.MULTILINE,
)
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
          (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


def distinct(options: Sequence[str]) -> list[str]:
    """The options without duplicates, in order."""
    return list(dict.fromkeys(options))


def correct_option(options: Sequence[str], answer: str) -> int | None:
    """Index of the option that matches ``answer``: exactly, or else ignoring case, whitespace and a final period.

    None if no option matches, or if several match leniently.
    """
    for index, option in enumerate(options):
        if option == answer:
            return index
    wanted = _lenient(answer)
    matching = [index for index, option in enumerate(options) if _lenient(option) == wanted]
    return matching[0] if len(matching) == 1 else None


def cites_letter(reasoning: str) -> bool:
    """Whether ``reasoning`` refers to an option by its capital letter, so that letters must not change."""
    return _CITED_LETTER.search(reasoning) is not None


@functools.cache
def upper(index: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, 27 -> AB."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def lower(index: int) -> str:
    return upper(index).lower()


def number(index: int) -> str:
    return str(index + 1)


@functools.cache
def roman(index: int) -> str:
    """0 -> i, 3 -> iv."""
    rest, numeral = index + 1, ""
    for value, sign in _ROMAN:
        count, rest = divmod(rest, value)
        numeral += sign * count
    return numeral


LETTERINGS: dict[str, Callable[[int], str]] = {"upper": upper, "lower": lower, "roman": roman, "number": number}


def _lenient(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
