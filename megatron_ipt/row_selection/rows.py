"""Token data as rows: row k of a dataset has the tokens from k L to (k + 1) L, so that neighbours overlap by one token
and every token but the first is predicted once. Datasets that are rows already, as tuning packs them, stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.selection.rows import ROW, CorpusShard, Names, ShardRows, hash_of
from megatron_ipt.selection.windows import Flags, Ids
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.tokens.dataset.indexed import IndexedReader, bin_path
from megatron_ipt.tokens.tokenizer.interface import Tokenizer
from megatron_ipt.tokens.tokenizer.loading import open_tokenizer
from megatron_ipt.tuning.rows import RowReader

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class TokenRow:
    """One row.

    Attributes:
        ids: int32 [tokens].
        mask: which of them are predicted; never the first.
        lengths: tokens of each sequence in it, int32 [sequences].
        source: place of its source in the sources of the dataset.
    """

    ids: Ids
    mask: Flags
    lengths: npt.NDArray[np.int32]
    source: int


class Dataset:
    """The rows of one training dataset.

    Args:
        folder: of the stage that made it.
        entry: its entry in ``dataset.json``.
        eod_id: end of document.
        seq_length: predicted tokens of a row that is cut here.

    Raises:
        InputError: files are missing or damaged, or the dataset holds rows longer than ``seq_length`` allows.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any], eod_id: int, seq_length: int):
        self.entry = entry
        self.prefix: str = entry["prefix"]
        self._eod = eod_id
        self._reader = IndexedReader(folder / self.prefix)
        self._packed = RowReader(folder / self.prefix, folder / entry["loss_mask"]) if "loss_mask" in entry else None
        self.seq_length = seq_length
        self.names: list[str] = list(entry.get("by_source", {})) or [entry["name"]]
        self._sources = folder / f"{self.prefix}.sources.npy"
        if self._packed is not None:
            longest = int(self._packed.lengths.max(initial=0)) - 1
            if longest > seq_length:
                raise InputError(
                    f"{bin_path(folder / self.prefix)}: has a row with {longest} predicted tokens, more than "
                    f"seq_length={seq_length}; set it to that of the stage that packed them"
                )

    def __len__(self) -> int:
        if self._packed is not None:
            return len(self._packed)
        return max(0, -(-(self._reader.total_tokens - 1) // self.seq_length))

    def row(self, number: int, eod_mask: bool) -> TokenRow:
        """Row ``number``.

        Args:
            eod_mask: whether tokens that follow an end-of-document token are not predicted, in a row that is cut here.
        """
        if self._packed is not None:
            row = self._packed[number]
            mask = row.mask.copy()
            mask[:1] = False
            return TokenRow(row.ids.astype(np.int32), mask, row.lengths, self._source_of(number))
        first = number * self.seq_length
        ids = self._reader.tokens[first : first + self.seq_length + 1].astype(np.int32)
        mask = np.ones(len(ids), np.bool_)
        if eod_mask:
            mask[1:] = ids[:-1] != self._eod
        mask[0] = False
        document = int(np.searchsorted(self._reader.offsets, first, side="right")) - 1
        return TokenRow(ids, mask, np.array([len(ids)], np.int32), self._source_of(document))

    def _source_of(self, document: int) -> int:
        return int(self._codes[document]) if self._codes is not None else 0

    @cached_property
    def _codes(self) -> npt.NDArray[np.uint8] | None:
        """Source of each document of the dataset."""
        return np.load(self._sources, mmap_mode="r") if self._sources.is_file() else None


class TokenRows:
    """All training rows of a folder of token data, dataset by dataset.

    Args:
        folder: of the stage that made it.
        seq_length: predicted tokens of a row.
        rows_per_shard: rows of a shard.
    """

    def __init__(self, folder: Path, seq_length: int, rows_per_shard: int):
        self.folder = folder
        self.description: dict[str, Any] = read_json(folder / DATASET)
        self._rows_per_shard = rows_per_shard
        eod = int(self.description["eod_id"])
        self.datasets = {
            entry["prefix"]: Dataset(folder, entry, eod, seq_length) for entry in self.description["train"]
        }

    def shards(self) -> list[CorpusShard]:
        """Stretches of consecutive rows, in order. Their path names no file."""
        return [
            CorpusShard(prefix, self.folder / f"shard-{number:05d}")
            for prefix, dataset in self.datasets.items()
            for number in range(-(-len(dataset) // self._rows_per_shard))
        ]

    def numbers(self, shard: CorpusShard) -> range:
        """The rows of a shard, by number in their dataset."""
        first = int(shard.path.name.removeprefix("shard-")) * self._rows_per_shard
        return range(first, min(first + self._rows_per_shard, len(self.datasets[shard.lane])))

    def rows_of(self, shard: CorpusShard, eod_mask: bool) -> Iterator[TokenRow]:
        dataset = self.datasets[shard.lane]
        return (dataset.row(number, eod_mask) for number in self.numbers(shard))

    def described(self, shard: CorpusShard, rows: list[TokenRow]) -> ShardRows:
        """``rows`` of a shard as :data:`~megatron_ipt.selection.rows.ROW`, without scores. The source of a row, that of
        its first token, is its domain."""
        sources = self.datasets[shard.lane].names
        domains = Names()
        records = [
            (
                hash_of(row_id(shard.lane, number)),
                np.nan,
                0,
                len(self.text(row).encode("utf-8", "surrogatepass")),
                domains.place(sources[row.source] if row.source < len(sources) else _UNKNOWN),
                0,
            )
            for number, row in zip(self.numbers(shard), rows)
        ]
        return ShardRows(np.array(records, ROW), domains.to_json(), [shard.lane])

    def text(self, row: TokenRow) -> str:
        """What it says, with control tokens."""
        return self.tokenizer.decode(row.ids.tolist())

    @cached_property
    def identity(self) -> str:
        """Hash of what the rows are made of, wherever the files are."""
        made = [self.description["train"], self.description["eod_id"], list(map(len, self.datasets.values()))]
        return hashlib.blake2b(orjson.dumps(made), digest_size=16).hexdigest()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.folder / self.description["tokenizer"])


def row_id(prefix: str, number: int) -> str:
    """``train:12``, by which a file of scores or labels names a row."""
    return f"{prefix}:{number}"
