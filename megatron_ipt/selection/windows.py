"""A document as token ids, and the windows in which it is scored.

Every token but the first is predicted exactly once: windows of L inputs overlap by one token, the last label of one is
the first input of the next. Which tokens count is decided on the whole document, as in training: those whose input is
not an end-of-document token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_ipt.inference.scoring import ScoreRequest

Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Framing:
    """How documents become ids.

    Attributes:
        bos: id before each document; None for none.
        eod: id that ends a document.
        append_eod: whether it is appended.
        eod_mask: whether tokens whose input is ``eod`` are not counted.
    """

    bos: int | None
    eod: int
    append_eod: bool = True
    eod_mask: bool = True

    def framed(self, ids: list[int]) -> Ids:
        """The ids of a document whose text has ``ids``; none for a text without ids."""
        if not ids:
            return np.zeros(0, np.int32)
        head = [] if self.bos is None else [self.bos]
        return np.array([*head, *ids, *([self.eod] if self.append_eod else [])], np.int32)

    def counted(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of ``ids`` count, [len(ids)]; never the first."""
        counted = np.ones(len(ids), np.bool_)
        if self.eod_mask:
            counted[1:] = ids[:-1] != self.eod
        counted[:1] = False
        return counted


@dataclass(frozen=True)
class Window:
    """A stretch of a document.

    Attributes:
        row: of the document in its shard.
        ids: that the engine gets.
        counted: which of them count.
    """

    row: int
    ids: Ids
    counted: npt.NDArray[np.bool_]

    def request(self) -> ScoreRequest:
        """What an engine is asked."""
        everything = bool(self.counted[1:].all())
        return ScoreRequest(self.ids.tolist(), None if everything else self.counted.tolist())


def windows(row: int, ids: Ids, counted: npt.NDArray[np.bool_], seq_length: int) -> Iterator[Window]:
    """Windows of at most ``seq_length`` inputs; those in which nothing counts are left out."""
    for first in range(0, max(len(ids) - 1, 0), seq_length):
        flags = counted[first : first + seq_length + 1].copy()
        # Counted in the window before, as its last label.
        flags[0] = False
        if flags.any():
            yield Window(row, ids[first : first + seq_length + 1], flags)


def by_length(made: list[Window]) -> list[Window]:
    """The longest first, ties by row: neighbours share a batch with little padding, and memory runs out at once or
    never."""
    return sorted(made, key=lambda window: -len(window.ids))
