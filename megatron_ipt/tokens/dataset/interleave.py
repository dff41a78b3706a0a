"""The order of documents of several sources in one dataset.

Every document gets a place on a common clock: a source with share s has its t-th token at time t / s, and documents
are ordered by the time of their middle. At any point of the dataset each source has then contributed its share, up to
about one document. Sources are read in stretches, and the documents that are certain to precede everything not yet read
are sorted and passed on, so memory holds one stretch per source, however many documents there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class Stretch:
    """Consecutive documents of one source.

    Attributes:
        lengths: number of tokens in each, [documents].
        place: where they are stored; used only by the caller.
    """

    lengths: npt.NDArray[np.integer[Any]]
    place: Any = None


@dataclass
class Block:
    """The next documents of the mix.

    Attributes:
        order: the source of each, uint8 [documents].
        taken: by source, the stretch and the range of it that is in the block, in its own order; None for nothing.
    """

    order: npt.NDArray[np.uint8]
    taken: list[tuple[Stretch, int, int] | None]


def end_of_mix(totals: Sequence[int], shares: Sequence[float]) -> float:
    """Tokens after which the first source runs out, given the tokens and the share of each."""
    return min((total / share for total, share in zip(totals, shares) if share > 0), default=0.0)


def interleave(
    sources: Sequence[Iterator[Stretch]], totals: Sequence[int], shares: Sequence[float] | None = None
) -> Iterator[Block]:
    """Interleaves sources by tokens.

    Args:
        sources: the stretches of each, in order, with every repetition.
        totals: number of tokens in each.
        shares: share of the tokens of each, adding up to 1; the mix ends when the first source runs out. None keeps
            everything: the shares are then those of the totals.
    """
    if shares is None:
        end, whole = np.inf, sum(totals)
        shares = [total / whole if whole else 1 / len(totals) for total in totals]
    else:
        end = end_of_mix(totals, shares)
    clocks = [_Clock(source, share, end) for source, share in zip(sources, shares) if source is not None]
    while True:
        waiting = [clock for clock in clocks if clock.fill()]
        if not waiting:
            return
        horizon = min(clock.times[-1] for clock in waiting)
        times, order = [], []
        taken: list[tuple[Stretch, int, int] | None] = []
        for number, clock in enumerate(clocks):
            start, stop = clock.advance(horizon)
            taken.append((clock.stretch, start, stop) if stop > start else None)
            times.append(clock.times[start:stop])
            order.append(np.full(stop - start, number, np.uint8))
        yield Block(np.concatenate(order)[np.argsort(np.concatenate(times), kind="stable")], taken)


class _Clock:
    """Times of the documents of one source: when their middle comes, in tokens of the mix."""

    def __init__(self, stretches: Iterator[Stretch], share: float, end: float):
        self.stretch = Stretch(np.zeros(0, np.int32))
        self.times: npt.NDArray[np.float64] = np.zeros(0)
        self._stretches = stretches
        self._share = share
        self._end = end
        self._tokens = 0
        self._cursor = 0
        self._over = share <= 0 and end < np.inf

    def fill(self) -> bool:
        """Ensures that a document is waiting; False if none is left."""
        while self._cursor == len(self.times):
            if self._over:
                return False
            stretch = next(self._stretches, None)
            if stretch is None:
                self._over = True
                return False
            ends = self._tokens + np.cumsum(stretch.lengths, dtype=np.int64)
            times = (ends - stretch.lengths / 2) / (self._share or 1.0)
            kept = int(np.searchsorted(times, self._end, "right"))
            self._over = kept < len(times)
            self.stretch, self.times, self._cursor = stretch, times[:kept], 0
            if len(ends):
                self._tokens = int(ends[-1])
        return True

    def advance(self, horizon: float) -> tuple[int, int]:
        """The range of the stretch up to and including ``horizon``, which is then used up."""
        start = self._cursor
        self._cursor = int(np.searchsorted(self.times, horizon, "right"))
        return start, max(start, self._cursor)
