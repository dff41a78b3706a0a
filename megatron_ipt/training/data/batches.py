"""The output of the tokens or tuning stage, and which of its samples a rank takes in a step.

Sample ``position + i`` belongs to the global batch that starts at ``position``, so a run resumes exactly from a single
number, with any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import read_json
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.training.data.masked_rows import open_rows
from megatron_ipt.training.loop.batch_ramp import BatchRamp
from megatron_ipt.training.objectives.objective import Batch
from megatron_ipt.training.ranks.layout import Layout

_SCANNED_TOKENS = 1 << 26
_SCAN_CHUNKS = 64


@dataclass(frozen=True)
class Source:
    """One indexed dataset.

    Attributes:
        path: prefix of the files, without .bin and .idx.
        parts: sources that were interleaved into it, in the order of their numbers.
        loss_mask: prefix of the mask of the tokens to be predicted; each document is then one sample. None if all
            tokens are predicted.
    """

    name: str
    path: Path
    weight: float
    documents: int
    tokens: int
    parts: tuple[str, ...] = ()
    loss_mask: Path | None = None

    def tokens_of_epoch(self, seq_length: int) -> int:
        """Tokens in the samples of one pass, including padding."""
        return self.tokens if self.loss_mask is None else self.documents * seq_length


@dataclass(frozen=True)
class TokenData:
    """The contents of ``dataset.json`` of the tokens or tuning stage."""

    directory: Path
    vocab_size: int
    eod_id: int
    train: tuple[Source, ...]
    valid: tuple[Source, ...]

    @classmethod
    def read(cls, directory: Path) -> TokenData:
        """Reads the description and checks that its files exist.

        Raises:
            InputError: a file or key is missing, or there is no training data.
        """
        path = directory / DATASET
        description = read_json(path)
        try:
            sources = {split: tuple(_source(directory, entry) for entry in description.get(split, ())) for split in
                       ("train", "valid")}  # fmt: skip
            data = cls(directory, int(description["vocab_size"]), int(description["eod_id"]), **sources)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: key {error} is missing; rerun the tokens stage") from error
        for source in (*data.train, *data.valid):
            for prefix in filter(None, (source.path, source.loss_mask)):
                for suffix in (".idx", ".bin"):
                    if not Path(f"{prefix}{suffix}").is_file():
                        raise InputError(f"{prefix}{suffix}: named by {path}, but does not exist; rerun its stage")
        if not data.train:
            raise InputError(f"{path}: lists no training data; run the tokens stage on a corpus that is not empty")
        return data

    def tokens_of_epoch(self, seq_length: int) -> int:
        """Tokens in the samples of one pass over the training data."""
        return sum(source.tokens_of_epoch(seq_length) for source in self.train)


def _source(directory: Path, entry: dict[str, Any]) -> Source:
    return Source(
        name=entry["name"],
        path=directory / entry["prefix"],
        weight=float(entry.get("weight", 1.0)),
        documents=int(entry["documents"]),
        tokens=int(entry["tokens"]),
        parts=tuple(entry.get("by_source", ())),
        loss_mask=directory / entry["loss_mask"] if "loss_mask" in entry else None,
    )


def check_sources(data: TokenData, seq_length: int, eod_mask_loss: bool = False) -> None:
    """Rejects datasets that would fail or mislead later: too short for one sequence, or with ids outside the
    vocabulary; and ``eod_mask_loss`` if every source has a loss mask.

    All ids of a dataset are checked up to 64M tokens, beyond that 64 chunks spread over the file.

    Raises:
        InputError: a file cannot be used.
        RecipeError: ``eod_mask_loss`` would have no effect.
    """
    if eod_mask_loss and all(source.loss_mask is not None for source in data.train):
        raise RecipeError(
            f"training.data.eod_mask_loss: has no effect on {data.directory}, whose rows have a mask of the "
            "tokens to be predicted; remove it"
        )
    for source in (*data.train, *data.valid):
        if source.loss_mask is not None:
            _check_rows(source, source in data.train, seq_length)
        # Megatron-Core cannot map an empty file.
        dataset = IndexedDataset(str(source.path)) if Path(f"{source.path}.bin").stat().st_size else None
        tokens = 0 if dataset is None else int(dataset.sequence_lengths.sum(dtype=numpy.int64))
        if source in data.train and source.loss_mask is None and tokens < seq_length + 1:
            raise InputError(
                f"{source.path}.bin: {tokens} tokens, fewer than one sequence of training.data.seq_length={seq_length} "
                "plus one; add text or lower training.data.seq_length"
            )
        if dataset is None:
            continue
        flat = numpy.memmap(f"{source.path}.bin", dtype=dataset.index.dtype, mode="r")
        size = min(len(flat), _SCANNED_TOKENS // _SCAN_CHUNKS)
        starts = numpy.linspace(0, len(flat) - size, min(_SCAN_CHUNKS, -(-len(flat) // size))).astype(int)
        for start in starts:
            highest = int(flat[start : start + size].max())
            if highest >= data.vocab_size:
                raise InputError(
                    f"{source.path}.bin: token id {highest} is outside the vocabulary of {data.vocab_size} of "
                    f"{data.directory / 'dataset.json'}; tokenize again with the tokenizer for training"
                )


def _check_rows(source: Source, trained_on: bool, seq_length: int) -> None:
    assert source.loss_mask is not None
    rows = len(open_rows(source.path, source.loss_mask, seq_length))
    if trained_on and not rows:
        raise InputError(f"{source.path}.bin: contains no rows; give the tuning stage more examples")
    if rows and not numpy.memmap(f"{source.loss_mask}.bin", dtype=numpy.uint8, mode="r").any():
        raise InputError(f"{source.loss_mask}.bin: marks no token to be predicted; rerun the tuning stage")


_OPTIONAL = ("attention_mask", "row", "row_tokens")


class Batches:
    """Micro-batches of this rank, from any position.

    Args:
        dataset: training or validation dataset.
        rank: data-parallel rank of this process.
        context_rank: context-parallel rank of this process.
        end: samples from here on are padding without loss; None if the dataset is long enough.
    """

    def __init__(
        self,
        dataset: Any,
        micro_batch_size: int,
        layout: Layout,
        rank: int,
        context_rank: int = 0,
        end: int | None = None,
    ):
        self._dataset = dataset
        self._micro_batch_size = micro_batch_size
        self._layout = layout
        self._rank = rank
        self._context_rank = context_rank
        self._end = end
        self._device = torch.cuda.current_device()

    def at(self, position: int, micro_batches: int) -> Iterator[Batch]:
        """The micro-batches of the global batch that starts at sample ``position``; tensors are [batch, seq]; an
        attention mask, if there is one, is [batch, 1, seq, seq] and true where attention is forbidden."""
        stride = self._micro_batch_size * self._layout.data
        for index in range(micro_batches):
            first = position + index * stride + self._rank * self._micro_batch_size
            yield self._collate(range(first, first + self._micro_batch_size))

    def _collate(self, indices: range) -> Batch:
        samples = [self._dataset[None if self._end is not None and index >= self._end else index] for index in indices]
        names = ["tokens", "labels", "loss_mask"]
        # Running text beside rows has no rows.
        names += [name for name in _OPTIONAL if all(name in sample for sample in samples)]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in names}
        if self._layout.context > 1:
            batch = {
                name: part_of_sequence(tensor, self._context_rank, self._layout.context)
                for name, tensor in batch.items()
            }
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}


def part_of_sequence(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """The part of ``tensor`` [batch, seq] on context-parallel rank ``rank``: of ``2 * ranks`` equal parts, the
    ``rank``-th from the start and the ``rank``-th from the end, so attention costs all ranks the same."""
    parts = tensor.chunk(2 * ranks, dim=1)
    return torch.cat([parts[rank], parts[2 * ranks - 1 - rank]], dim=1)


def number_of_steps(
    steps: int | None, tokens: int | None, epochs: float | None, train_tokens: int, seq_length: int, ramp: BatchRamp
) -> int:
    """Length of the run in optimizer steps; one pass over the data by default."""
    if steps is not None:
        return steps
    if tokens is not None:
        whole, rest = ramp.steps_for(-(-tokens // seq_length))
        return whole + (rest > 0)
    whole, _ = ramp.steps_for(int((1.0 if epochs is None else epochs) * train_tokens / seq_length))
    return max(1, whole)
