"""Samples from rows with a loss mask, as the tuning stage writes them.

A row is one sample: it is never split and never joined with another. It is padded to the sequence length, and only its
marked tokens have a loss. With ``data.reset_attention_mask``, the sequences of a row do not attend to each other.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import numpy.typing
import torch
from megatron.core.datasets.utils import Split

from megatron_ipt.errors import InputError
from megatron_ipt.tuning.rows import Row, RowReader


class MaskedSamples(torch.utils.data.Dataset[Any]):
    """One pass over the rows of a source.

    Args:
        config: Megatron-Core's, for ``sequence_length`` and ``create_attention_mask``.
        pad_id: id of the tokens that pad a row.
        seed: seed of the order; None for the order of the file.
        first_row: number of the first row among those of all sources.
    """

    def __init__(self, reader: RowReader, config: Any, pad_id: int, seed: int | None, first_row: int = 0):
        self._reader = reader
        self._first_row = first_row
        self._pad_id = pad_id
        self._seed = seed
        # Required of a round; see sample_index.Rounds and Megatron-Core's BlendedDataset.
        self.config = config
        self.index_split = Split.train
        self.unique_identifiers = OrderedDict(class_name="rows", rows=len(reader), tokens=reader.tokens)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int | None) -> dict[str, torch.Tensor]:
        """The sample as tensors [seq]; None gives one of only padding."""
        length = self.config.sequence_length
        place = None if index is None else int(self._order[index])
        row = _EMPTY if place is None else self._reader[place]
        inputs = max(len(row.ids) - 1, 0)
        tokens, labels = (torch.full((length,), self._pad_id, dtype=torch.int64) for _ in range(2))
        loss_mask = torch.zeros(length)
        tokens[:inputs] = torch.from_numpy(row.ids[:-1])
        labels[:inputs] = torch.from_numpy(row.ids[1:])
        loss_mask[:inputs] = torch.from_numpy(row.mask[1:]).float()
        number = -1 if place is None else self._first_row + place
        sample = {
            "tokens": tokens,
            "labels": labels,
            "loss_mask": loss_mask,
            "row": torch.full((length,), number),
            "row_tokens": torch.full((length,), int(loss_mask.sum())),
        }
        if self.config.create_attention_mask:
            sample["attention_mask"] = forbidden_attention(row.lengths, length)
        return sample

    def tokens_by_source(
        self, samples: numpy.typing.NDArray[numpy.int64], source: numpy.typing.NDArray[numpy.uint8], sources: int
    ) -> numpy.typing.NDArray[numpy.int64]:
        """Input tokens by source in samples, without padding, [sources].

        Args:
            source: source of each row, [rows].
        """
        rows = self._order[samples]
        tokens = self._reader.lengths[rows].astype(numpy.int64) - 1
        return numpy.bincount(source[rows], weights=tokens, minlength=sources).astype(numpy.int64)

    @cached_property
    def _order(self) -> numpy.typing.NDArray[numpy.int64]:
        if self._seed is None:
            return numpy.arange(len(self._reader))
        return numpy.random.default_rng(self._seed).permutation(len(self._reader))


_EMPTY = Row(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.bool_), numpy.zeros(0, numpy.int32))


def forbidden_attention(lengths: numpy.typing.NDArray[numpy.int32], length: int) -> torch.Tensor:
    """True where attention is forbidden, [1, length, length]: later positions, and other sequences.

    Args:
        lengths: lengths of the consecutive sequences from the first position on; the last may extend one token beyond
            ``length``. The padding after them is a sequence too, so every position can attend to at least one.
    """
    ends = torch.from_numpy(numpy.cumsum(lengths, dtype=numpy.int64))
    sequence = torch.searchsorted(ends, torch.arange(length), right=True)
    allowed = torch.ones(length, length, dtype=torch.bool).tril_() & (sequence[:, None] == sequence[None, :])
    return ~allowed[None]


def open_rows(prefix: Path, mask_prefix: Path, seq_length: int) -> RowReader:
    """Opens rows to train on.

    Raises:
        InputError: they are missing or damaged, or too long for ``seq_length``.
    """
    reader = RowReader(prefix, mask_prefix)
    longest = int(reader.lengths.max(initial=0))
    if longest > seq_length + 1:
        raise InputError(
            f"{prefix}.bin: a row of {longest} tokens, more than training.data.seq_length={seq_length} plus one; "
            "set it to the tuning.seq_length of the data"
        )
    return reader
