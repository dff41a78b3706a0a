"""Patterns with slots, and weighted pools to draw from.

A pattern is split once into literals and slots, and filled by concatenation. Content is never parsed or formatted, so
braces, percent signs and slot names in it are copied unchanged.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")

TEXT, QUESTION, ANSWER, FRAME = "text", "question", "answer", "frame"
"""Kinds of segments of a document: three kinds of content, and the template text around it."""

_KIND_OF_SLOT = {
    "text": TEXT,
    "question": QUESTION, "questions": QUESTION, "options": QUESTION, "option": QUESTION,
    "answer": ANSWER, "answers": ANSWER, "letter": ANSWER, "choice": ANSWER, "reasoning": ANSWER,
}  # fmt: skip

_MARK = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ENDS = (".", "!", "?", "。", "！", "？", "…")


class PatternError(ValueError):
    """A pattern is not valid."""


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern.

    Attributes:
        head: literal before the first slot.
        pieces: for each slot its name, the literal after it, and the same literal without a leading period, used when
            the content already ends with punctuation.
        kinds: kinds of the strings that :meth:`fill` appends.
    """

    head: str
    pieces: tuple[tuple[str, str, str], ...]
    kinds: tuple[str, ...]

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(slot for slot, _, _ in self.pieces)

    def fill(self, values: Mapping[str, str], parts: list[str], kinds: list[str]) -> None:
        """Appends literals and values to ``parts``, and their kinds to ``kinds``."""
        parts.append(self.head)
        for slot, after, after_end in self.pieces:
            value = values[slot]
            if after is after_end:
                parts += (value, after)
            else:
                parts += (value, after_end if value.endswith(_ENDS) else after)
        kinds += self.kinds

    def text(self, values: Mapping[str, str]) -> str:
        """The filled pattern as one string."""
        filled = self.head
        for slot, after, after_end in self.pieces:
            value = values[slot]
            filled += value + (after if after is after_end or not value.endswith(_ENDS) else after_end)
        return filled


def compile_pattern(source: str) -> Pattern:
    """Splits ``source`` at its ``{slots}``; ``{{`` and ``}}`` are literal braces.

    Raises:
        PatternError: an unbalanced brace, or a slot that appears twice.
    """
    literals, slots = [""], []
    position = 0
    for mark in _MARK.finditer(source):
        literals[-1] += source[position : mark.start()]
        position = mark.end()
        if mark[0] in ("{{", "}}"):
            literals[-1] += mark[0][0]
        elif mark[1] is None:
            raise PatternError(
                f"unbalanced {mark[0]!r} at character {mark.start() + 1}; a literal brace is written {mark[0] * 2!r}"
            )
        elif mark[1] in slots:
            raise PatternError(f"slot {{{mark[1]}}} appears twice")
        else:
            slots.append(mark[1])
            literals.append("")
    literals[-1] += source[position:]
    pieces = []
    for slot, after in zip(slots, literals[1:]):
        drops = after.startswith(".") and not after.startswith("..")
        pieces.append((slot, after, after[1:] if drops else after))
    kinds = [FRAME]
    for slot in slots:
        kinds += (_KIND_OF_SLOT.get(slot, FRAME), FRAME)
    return Pattern(literals[0], tuple(pieces), tuple(kinds))


@dataclass(frozen=True)
class Pool(Generic[T]):
    """Entries, drawn at random by weight."""

    entries: tuple[T, ...]
    bounds: tuple[float, ...]

    @classmethod
    def of(cls, weighted: Sequence[tuple[T, float]]) -> Pool[T]:
        """A pool of (entry, weight) pairs; entries with weight 0 are dropped."""
        kept = [(entry, weight) for entry, weight in weighted if weight > 0]
        return cls(tuple(entry for entry, _ in kept), tuple(accumulate(weight for _, weight in kept)))

    def draw(self, uniform: Callable[[], float]) -> T:
        """Draws one entry; calls ``uniform`` once."""
        bounds = self.bounds
        return self.entries[bisect_right(bounds, uniform() * bounds[-1], 0, len(bounds) - 1)]
