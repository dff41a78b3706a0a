"""Packs examples into rows, given their lengths.

Best fit with a bounded number of open rows: each example goes into the open row with the least sufficient space left;
if there is none, a new row is opened. If ``WINDOW`` rows are open, the fullest one is closed first. Time is linear in
the number of examples, and examples are never split.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence

WINDOW = 512
"""Maximum number of open rows. Doubling it hardly improves packing."""


def pack(lengths: Sequence[int], capacity: int, order: Iterable[int], window: int = WINDOW) -> Iterator[list[int]]:
    """Yields rows, each a list of example indices in the order in which they were added.

    Args:
        lengths: tokens per example, at most ``capacity``.
        capacity: tokens per row.
        order: indices of the examples to pack, each once.
        window: maximum number of open rows.
    """
    # Sorted (tokens left, row number), so that bisection finds the best fit.
    rooms: list[tuple[int, int]] = []
    rows: dict[int, list[int]] = {}
    opened = 0
    for example in order:
        length = int(lengths[example])
        if length > capacity:
            raise ValueError(f"example {example} has {length} tokens, more than the {capacity} of a row")
        position = bisect.bisect_left(rooms, (length, -1))
        if position < len(rooms):
            room, row = rooms.pop(position)
        else:
            if len(rooms) == window:
                yield rows.pop(rooms.pop(0)[1])
            room, row = capacity, opened
            rows[row] = []
            opened += 1
        rows[row].append(example)
        bisect.insort(rooms, (room - length, row))
    yield from rows.values()
