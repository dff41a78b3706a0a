"""What elements need to fit the page: bars scaled to each other, documents folded, code set off. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_ipt.stages.page import Bars, Branch, Segment

_PREVIEW_CHARACTERS = 90
_LONG_CHARACTERS = 1500
_HEAD_CHARACTERS, _TAIL_CHARACTERS = 700, 300
_MIDDLE_CHARACTERS = 20_000


@dataclass(frozen=True)
class Bar:
    """``width`` is relative to the longest bar, ``share`` to the sum; both 0 to 1."""

    label: str
    value: int
    share: float
    width: float
    is_rest: bool = False


def bars_of(bars: Bars) -> list[Bar]:
    """The bars to draw; what goes beyond ``bars.most`` is one bar for the rest."""
    items = list(bars.counts.items())
    if not bars.in_order:
        items.sort(key=lambda item: (-item[1], item[0]))
    total = sum(bars.counts.values())
    rest = items[bars.most - 1 :] if len(items) > bars.most else []
    shown = [(label, value, False) for label, value in items[: len(items) - len(rest)]]
    if rest:
        shown.append((f"{len(rest)} more", sum(value for _, value in rest), True))
    longest = max((value for _, value, _ in shown), default=0)
    return [
        Bar(label, value, value / total if total else 0.0, value / longest if longest else 0.0, is_rest)
        for label, value, is_rest in shown
    ]


def longest_of(branches: Sequence[Branch]) -> int:
    """The longest bar among the leaves of a tree, losses included; at least 1."""
    return (
        max(
            (longest_of(branch.branches) if branch.branches else branch.amount + branch.lost for branch in branches),
            default=1,
        )
        or 1
    )


@dataclass(frozen=True)
class Piece:
    """A stretch of a document; ``hidden`` ones open on demand."""

    text: str
    mark: str
    hidden: bool = False


def pieces_of(segments: Sequence[Segment]) -> list[Piece]:
    """Long segments with their middle hidden, and very long ones cut there, so that pages stay small."""
    return [piece for segment in segments for piece in _pieces(segment)]


def _pieces(segment: Segment) -> Iterator[Piece]:
    text, mark = segment.text, segment.mark
    if len(text) <= _LONG_CHARACTERS:
        if text:
            yield Piece(text, mark)
        return
    # Cut between words where there are any.
    head = text.rfind(" ", _HEAD_CHARACTERS // 2, _HEAD_CHARACTERS) + 1 or _HEAD_CHARACTERS
    last = len(text) - _TAIL_CHARACTERS
    tail = text.find(" ", last, last + _TAIL_CHARACTERS // 2) + 1 or last
    middle = text[head:tail]
    left_out = len(middle) - _MIDDLE_CHARACTERS
    if left_out > 0:
        middle = f"{middle[:_MIDDLE_CHARACTERS]}\n\n[{left_out:,} more characters are not shown on this page]\n\n"
    yield Piece(text[:head], mark)
    yield Piece(middle, mark, hidden=True)
    yield Piece(text[tail:], mark)


def preview_of(segments: Sequence[Segment]) -> str:
    """The first words of a document, on one line."""
    start = "".join(segment.text for segment in segments)[: 4 * _PREVIEW_CHARACTERS]
    words = " · ".join(filter(None, (" ".join(line.split()) for line in start.splitlines())))
    if len(words) <= _PREVIEW_CHARACTERS:
        return words
    return words[:_PREVIEW_CHARACTERS].rsplit(" ", 1)[0] + " …"


def runs_of(text: str) -> list[tuple[str, bool]]:
    """(stretch, whether it is code) of a text in which backticks set off code."""
    return [(run, index % 2 == 1) for index, run in enumerate(re.split(r"`([^`]+)`", text)) if run]
