"""Divides long documents into passages without losing anything: joined, the passages are the document.

Cuts fall between paragraphs, else between sentences, else between words, always at the last such place within the
limit. A line that does not end like a sentence is treated as a heading and stays with what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_CUTS = (
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?])[\"'”’)]*\s+"),
    re.compile(r"\s+"),
)
_LINE_CUTS = _CUTS[:2]
_HEADING_CHARACTERS = 100
_LEAST_FILL = 0.5
"""A cut that would leave a passage less full than this is replaced by a finer kind of cut."""
_TOKEN_MARGIN = 0.9
"""Tokens are not spread evenly over characters, so passages aim for this fraction of their limit."""


def divide(text: str, limit: int) -> list[str]:
    """Passages of at most ``limit`` characters whose concatenation is ``text``."""
    passages = []
    start = 0
    while len(text) - start > limit:
        end = _cut(text, start, limit)
        passages.append(text[start:end])
        start = end
    passages.append(text[start:])
    # A remainder without words belongs to the passage before it.
    if len(passages) > 1 and not passages[-1].strip():
        remnant = passages.pop()
        passages[-1] += remnant
    return passages


def _cut(text: str, start: int, limit: int) -> int:
    # Passages of even length instead of full ones and a short remainder.
    remaining = len(text) - start
    target = start + min(limit, -(-remaining // -(-remaining // limit)) + limit // 10)
    for pattern in _CUTS:
        ends = [match.end() for match in pattern.finditer(text, start + int(limit * _LEAST_FILL), target)]
        for end in reversed(ends):
            if pattern not in _LINE_CUTS or not _after_heading(text, start, end):
                return end
    return target


def _after_heading(text: str, start: int, end: int) -> bool:
    line = text[start:end].rstrip().rpartition("\n")[2].rstrip("\"'”’) ")
    return len(line) <= _HEADING_CHARACTERS and not line.endswith((".", "!", "?", ":", ";", ","))


def divide_by_tokens(text: str, limit: int, count: Callable[[str], int]) -> list[str]:
    """Passages of at most ``limit`` tokens whose concatenation is ``text``.

    Args:
        text: the text to divide; may be empty.
        limit: maximum tokens of a passage.
        count: counts the tokens of a string. Not called for texts of at most ``limit`` bytes in UTF-8, because no byte
            makes two tokens.
    """
    if len(text) <= 1 or len(text.encode("utf-8", "surrogatepass")) <= limit:
        return [text]
    tokens = count(text)
    if tokens <= limit:
        return [text]
    characters = max(1, int(len(text) * limit / tokens * _TOKEN_MARGIN))
    pieces = divide(text, characters)
    if len(pieces) == 1:
        pieces = [text[: len(text) // 2], text[len(text) // 2 :]]
    return [passage for piece in pieces for passage in divide_by_tokens(piece, limit, count)]
