"""Encodes very long texts in parts, with the same ids as in one piece.

SentencePiece and tokenizers need 50 to 80 bytes per character while they encode, so a document of 10 MB takes them over
half a gigabyte. A text may be cut before a blank between two letters, which no piece of the vocabularies in use spans:
that the ids stay the same is checked around every cut, and a cut that fails is moved. A text without such a place (no
blanks) is encoded whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.integer]
Encode = Callable[[list[str]], list[Ids]]

PART_CHARACTERS = 1 << 20
_WINDOW = 200
_TRIES = 50
_CUT = re.compile(r"(?<=[a-z]) (?=[a-z])")


def encode_in_parts(encode: Encode, texts: list[str], part_characters: int = PART_CHARACTERS) -> list[Ids]:
    """Ids of every text, without passing ``encode`` a text longer than about ``part_characters`` if it can be cut."""
    if all(len(text) <= part_characters for text in texts):
        return encode(texts)
    return [
        encode([text])[0]
        if len(text) <= part_characters
        else np.concatenate([encode([part])[0] for part in _parts(encode, text, part_characters)])
        for text in texts
    ]


def _parts(encode: Encode, text: str, part_characters: int) -> list[str]:
    parts = []
    start = 0
    while len(text) - start > part_characters:
        found = _cut(encode, text, start, start + part_characters)
        if found is None:
            break
        end, resume = found
        parts.append(text[start:end])
        start = resume
    return [*parts, text[start:]]


def _cut(encode: Encode, text: str, start: int, position: int) -> tuple[int, int] | None:
    """Where to end one part and begin the next, near ``position``; None when no cut keeps the ids."""
    for number, match in enumerate(_CUT.finditer(text, position)):
        if number == _TRIES:
            break
        blank = match.start()
        low, high = max(start, blank - _WINDOW), blank + _WINDOW
        whole, left = (encode([piece])[0] for piece in (text[low:high], text[low:blank]))
        # For a tokenizer that puts a blank before every text, the part must not begin with one.
        for resume in (blank, blank + 1):
            if np.array_equal(whole, np.concatenate([left, encode([text[resume:high]])[0]])):
                return blank, resume
    return None
