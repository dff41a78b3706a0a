"""Training and validation samples over Megatron indexed datasets, whose indices are built once and cached.

Megatron-Core's GPTDataset splits and shuffles; its order depends on the number of samples requested, so an extended run
would see different data from the start. Here a source is a series of rounds, each a GPTDataset with its own order:
extending a run adds rounds and changes nothing before them. A round of a source with a loss mask is one pass over its
rows (:mod:`~megatron_ipt.training.data.masked_rows`). Sources are blended by Megatron-Core's BlendedDataset, whose
choice for a sample only depends on the samples before it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy
import numpy.typing
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron_ipt.errors import InputError, StorageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.seeding import derive
from megatron_ipt.training.config import DataConfig
from megatron_ipt.training.data.batches import Source, TokenData
from megatron_ipt.training.data.masked_rows import MaskedSamples, open_rows
from megatron_ipt.training.data.tokens_by_source import tokens_of_windows
from megatron_ipt.tuning.rows import RowReader

_LEAST_ROUND = 256
"""In samples: a smaller source is repeated within a round."""


class _Vocabulary:
    """The part of a tokenizer that Megatron-Core's datasets need."""

    def __init__(self, data: TokenData):
        self.vocab_size = data.vocab_size
        self.eod = data.eod_id
        # Part of the name in the index cache: new content under the same path must not use an old index.
        self.unique_identifiers = {
            "class": "megatron_ipt",
            "sources": {source.name: [source.documents, source.tokens] for source in (*data.train, *data.valid)},
        }


class IndexCache:
    """The folder of Megatron-Core's index files, which it writes in place and assumes to be complete if they exist.

    A list of the finished files and their sizes identifies those that a crash left incomplete.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._list = folder / "finished.json"

    def __str__(self) -> str:
        return str(self._folder)

    @property
    def is_read_only(self) -> bool:
        return self._folder.is_dir() and not os.access(self._folder, os.W_OK)

    def drop_unfinished(self) -> None:
        """Removes files that were never marked as finished, or that have changed since.

        Raises:
            InputError: there are such files, but the folder is read-only.
        """
        finished = read_json(self._list) if self._list.exists() else {}
        for path in self._files():
            if finished.get(path.name) != path.stat().st_size:
                if self.is_read_only:
                    raise InputError(f"{path}: incomplete, and the folder is read-only; build the indices again")
                path.unlink()

    def mark_finished(self) -> None:
        if not self.is_read_only:
            write_json(self._list, {path.name: path.stat().st_size for path in self._files()})

    def _files(self) -> list[Path]:
        return [path for path in sorted(self._folder.glob("*")) if path != self._list]


class Rounds(torch.utils.data.Dataset[Any]):
    """The samples of one training source, round after round."""

    def __init__(self, source: Source, rounds: list[Any]):
        self._rounds = rounds
        self._length = len(rounds[0])
        self._seq_length = rounds[0].config.sequence_length
        path = Path(f"{source.path}.sources.npy")
        self._source = numpy.load(path, mmap_mode="r") if source.parts and path.is_file() else None
        self.names = source.parts if self._source is not None else (source.name,)
        # Required by BlendedDataset.
        self.index_split = rounds[0].index_split
        self.unique_identifiers = rounds[0].unique_identifiers
        self.split = rounds[0].index_split

    def __len__(self) -> int:
        return self._length * len(self._rounds)

    def __getitem__(self, index: int) -> Any:
        number, sample = divmod(int(index), self._length)
        return self._rounds[number][sample]

    def tokens(self, samples: numpy.typing.NDArray[numpy.int64]) -> numpy.typing.NDArray[numpy.int64]:
        """Tokens by source of these samples."""
        masked = isinstance(self._rounds[0], MaskedSamples)
        if self._source is None and not masked:
            return numpy.array([len(samples) * self._seq_length])
        source = numpy.zeros(self._length, numpy.uint8) if self._source is None else self._source
        count = MaskedSamples.tokens_by_source if masked else tokens_of_windows
        total = numpy.zeros(len(self.names), numpy.int64)
        numbers = samples // self._length
        for number in numpy.unique(numbers):
            total += count(self._rounds[number], samples[numbers == number] % self._length, source, len(self.names))
        return total


class Blend(BlendedDataset):
    """Several sources, mixed by weight."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for dataset in self.datasets for name in dataset.names)

    def tokens(self, samples: numpy.typing.NDArray[numpy.int64]) -> numpy.typing.NDArray[numpy.int64]:
        """Tokens by source of these samples."""
        which, inside = self.dataset_index[samples], self.dataset_sample_index[samples]
        return numpy.concatenate(
            [dataset.tokens(inside[which == number]) for number, dataset in enumerate(self.datasets)]
        )


class DatasetBuilder:
    """Builds training and validation datasets over one index cache; every rank calls every method.

    Args:
        cache: folder for the indices; written by rank 0, read by all ranks.
    """

    def __init__(self, data: TokenData, seq_length: int, settings: DataConfig, seed: int, cache: Path):
        self._data = data
        self._seed = seed
        self._settings = settings
        self._options = {
            "sequence_length": seq_length,
            "tokenizer": _Vocabulary(data),
            "path_to_cache": str(cache),
            "reset_position_ids": settings.reset_position_ids,
            "reset_attention_mask": settings.reset_attention_mask,
            "eod_mask_loss": settings.eod_mask_loss,
            "create_attention_mask": settings.reset_attention_mask,
            "drop_last_partial_validation_sequence": False,
        }
        self._seq_length = seq_length
        self._rows: dict[Path, tuple[RowReader, GPTDatasetConfig]] = {}
        self._cache = IndexCache(cache)
        if torch.distributed.get_rank() == 0:
            self._cache.drop_unfinished()
        torch.distributed.barrier()

    def finish(self) -> None:
        """Call when all datasets have been built."""
        if torch.distributed.get_rank() == 0:
            self._cache.mark_finished()

    def train(self, samples: int) -> Rounds | Blend:
        """A dataset of at least ``samples`` sequences; sources are repeated as often as necessary.

        Raises:
            InputError: ``data.blend`` names an unknown source.
        """
        weights = self._weights()
        if len(weights) == 1:
            ((source, _),) = weights
            return self._rounds(source, samples)
        # BlendedDataset keeps every source within one sample of its share.
        datasets = [self._rounds(source, math.ceil(weight * samples) + 2) for source, weight in weights]
        paths = [str(source.path) for source, _ in weights]
        config = GPTDatasetConfig(random_seed=0, blend_per_split=[(paths, None), None, None], **self._options)
        shares = [weight for _, weight in weights]
        if torch.distributed.get_rank() == 0:
            self._reporting(lambda: Blend(datasets, shares, samples, config))
        torch.distributed.barrier()
        return Blend(datasets, shares, samples, config)

    def valid(self, source: Source) -> Any:
        """One pass over ``source``; its last sequence is padded, without loss on the padding."""
        if source.loss_mask is not None:
            return self._masked(source, None)
        dataset = self._build([None, ([str(source.path)], None), None], None, derive(self._seed, "held out"))[1]
        # GPTDataset would reuse the loss mask of the first sample, including its padding, for all others.
        dataset.masks_and_position_ids_are_cacheable = False
        return dataset

    def _weights(self) -> list[tuple[Source, float]]:
        sources = {source.name: source for source in self._data.train}
        shares = self._settings.blend or {name: source.weight for name, source in sources.items()}
        unknown = [name for name in shares if name not in sources]
        if unknown:
            raise InputError(
                f"training.data.blend: no training source is called {unknown[0]}; there are {', '.join(sources)}. "
                "Documents that the tokens stage has interleaved into one dataset are blended there."
            )
        total = sum(shares.values())
        return [(sources[name], share / total) for name, share in shares.items() if share > 0]

    def _rounds(self, source: Source, samples: int) -> Rounds:
        if source.loss_mask is not None:
            passes = max(1, math.ceil(samples / source.documents))
            seeds = [derive(self._seed, "order of samples", source.name, number) for number in range(passes)]
            return Rounds(source, [self._masked(source, seed) for seed in seeds])
        once = (source.tokens - 1) // self._seq_length
        asked = None if once >= _LEAST_ROUND else _LEAST_ROUND
        rounds: list[Any] = []
        while not rounds or sum(map(len, rounds)) < samples:
            seed = derive(self._seed, "order of samples", source.name, len(rounds))
            rounds.append(self._build([([str(source.path)], None), None, None], asked, seed)[0])
        return Rounds(source, rounds)

    def _masked(self, source: Source, seed: int | None) -> MaskedSamples:
        if source.path not in self._rows:
            assert source.loss_mask is not None
            blends = [([str(source.path)], None), None, None]
            config = GPTDatasetConfig(random_seed=0, blend_per_split=blends, **self._options)
            self._rows[source.path] = open_rows(source.path, source.loss_mask, self._seq_length), config
        return MaskedSamples(*self._rows[source.path], self._data.eod_id, seed, self._first_row(source))

    def _first_row(self, source: Source) -> int:
        """Number of the first row of a training source; rows of a validation set count from 0."""
        with_rows = [entry for entry in self._data.train if entry.loss_mask is not None]
        before = with_rows[: with_rows.index(source)] if source in with_rows else []
        return sum(entry.documents for entry in before)

    def _build(self, blends: list[Any], samples: int | None, seed: int) -> Any:
        config = GPTDatasetConfig(blend_per_split=blends, random_seed=seed % 2**31, **self._options)
        sizes = [samples if blend is not None else None for blend in blends]
        return self._reporting(lambda: BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build())

    def _reporting(self, build: Any) -> Any:
        try:
            return build()
        except Exception as error:
            # Megatron-Core turns a failed write into a bare Exception.
            if isinstance(error.__cause__, OSError):
                reason = error.__cause__.strerror or error.__cause__
                raise StorageError(f"{self._cache}: the sample index could not be written: {reason}") from error
            if isinstance(error, PermissionError):
                raise StorageError(f"{self._cache}: the sample index could not be written: {error.strerror}") from error
            raise
