"""Packing: which examples share a row. Pure; from lengths to lists of numbers.

Best fit with a bounded choice: every example goes into the open row that it fills best, and where none has room a new
row is opened. Of more than ``WINDOW`` open rows the fullest is closed. Time grows with the number of examples alone,
and an example is never cut.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence

WINDOW = 512
"""Rows that are open at once. Twice as many fill rows hardly better."""


def pack(lengths: Sequence[int], capacity: int, order: Iterable[int], window: int = WINDOW) -> Iterator[list[int]]:
    """Yields rows, each the numbers of its examples in the order they came in.

    Args:
        lengths: tokens of every example, none above ``capacity``.
        capacity: tokens of a row.
        order: numbers of the examples to pack, each once.
        window: rows that are open at once.
    """
    # (room, number of the row), sorted: the row that an example fills best is found by bisection.
    rooms: list[tuple[int, int]] = []
    rows: dict[int, list[int]] = {}
    opened = 0
    for example in order:
        length = int(lengths[example])
        if length > capacity:
            raise ValueError(f"example {example} has {length} tokens, a row {capacity}")
        place = bisect.bisect_left(rooms, (length, -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            if len(rooms) == window:
                yield rows.pop(rooms.pop(0)[1])
            room, row = capacity, opened
            rows[row] = []
            opened += 1
        rows[row].append(example)
        bisect.insort(rooms, (room - length, row))
    yield from rows.values()
