"""Rows of packed tokens with a loss mask, in two indexed datasets of the same shape.

``PREFIX.bin/.idx`` has the ids. A *document* of the index is one row, i.e. one training sample of at most
``seq_length + 1`` tokens. The *sequences* of a document are the examples packed into the row, which can be isolated
from each other in training. ``MASK.bin/.idx`` has one byte per token, 1 if the token is predicted. Both are plain
Megatron indexed datasets, which standard tools can read.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.dataset.indexed import IndexedReader, IndexedWriter, bin_path, idx_path

MASK_SUFFIX = "-loss-mask"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        ids: int64 [tokens].
        mask: whether each token is predicted, bool [tokens]; False for the first one.
        lengths: tokens per sequence in the row, int32 [sequences]; they add up to the tokens of the row.
    """

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int32]


class RowReader:
    """Memory-mapped rows.

    Args:
        prefix: path prefix of the ids.
        mask_prefix: path prefix of the loss mask.

    Raises:
        InputError: files are missing or damaged, or ids and mask differ in shape.
    """

    def __init__(self, prefix: str | Path, mask_prefix: str | Path):
        self._ids = IndexedReader(prefix)
        self._mask = IndexedReader(mask_prefix)
        if self._mask.dtype != np.uint8:
            raise InputError(
                f"{idx_path(mask_prefix)}: data type is {self._mask.dtype.name}, expected uint8 for a loss mask"
            )
        if not (
            np.array_equal(self._ids.sequence_lengths, self._mask.sequence_lengths)
            and np.array_equal(self._ids.document_index, self._mask.document_index)
        ):
            raise InputError(
                f"{bin_path(mask_prefix)}: shape differs from {bin_path(prefix)}; rerun the stage tuning to write both "
                "again"
            )

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens per row, int32 [rows]."""
        return self._ids.lengths

    @property
    def tokens(self) -> int:
        """Total number of tokens."""
        return self._ids.total_tokens

    def __getitem__(self, index: int) -> Row:
        ids, mask = self._ids[index], self._mask[index]
        index %= len(self)
        first, end = self._ids.document_index[index : index + 2]
        return Row(ids.astype(np.int64), mask.astype(np.bool_), np.array(self._ids.sequence_lengths[first:end]))


class RowWriter:
    """Writes rows to ``prefix`` and their mask to ``prefix`` + ``-loss-mask``; the files appear if the ``with`` block
    succeeds.

    Attributes:
        loss_tokens: number of predicted tokens so far.
    """

    def __init__(self, prefix: Path, dtype: npt.DTypeLike):
        self.mask_prefix = Path(f"{prefix}{MASK_SUFFIX}")
        self.loss_tokens = 0
        self._ids = IndexedWriter(prefix, dtype)
        self._mask = IndexedWriter(self.mask_prefix, np.uint8)
        self._stack = ExitStack()

    @property
    def rows(self) -> int:
        return self._ids.documents

    @property
    def sequences(self) -> int:
        return self._ids.sequences

    @property
    def tokens(self) -> int:
        return self._ids.tokens

    def add(self, ids: npt.NDArray[Any], mask: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]) -> None:
        """Appends one row; see :class:`Row`."""
        counts = np.array([len(lengths)], np.int32)
        self._ids.add(ids, lengths, counts)
        self._mask.add(mask.astype(np.uint8), lengths, counts)
        self.loss_tokens += int(np.count_nonzero(mask))

    def __enter__(self) -> RowWriter:
        with ExitStack() as stack:
            stack.enter_context(self._ids)
            stack.enter_context(self._mask)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)
