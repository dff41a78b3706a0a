"""Reads rows of tensors from a distributed checkpoint, whatever parallel layout wrote it.

The checkpoint's metadata says which rectangle of which tensor is where. Rows are assembled from the chunks that overlap
them, directly from the files: in one process, without a process group, without Megatron-Core, and without a whole chunk
ever being in memory. torch's own reader would unpickle the metadata (and whatever else is hidden in it) and copies
every chunk twice.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.convert.formats import safe_pickle, torch_file
from megatron_ipt.convert.formats.safe_pickle import TensorRecord
from megatron_ipt.convert.formats.stored_tensor import SourceFile, StoredTensor
from megatron_ipt.errors import InputError

METADATA = ".metadata"
BACKEND = "metadata.json"
"""Where torch describes the tensors, and Megatron-Core the format of the checkpoint; both are written last."""


@dataclass(frozen=True)
class _Chunk:
    """A rectangle of a tensor and the bytes of a file that contain it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    position: int
    length: int


@dataclass(frozen=True)
class _Tensor:
    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[_Chunk, ...]


class CheckpointReader:
    """Tensors of the distributed checkpoint in ``folder`` (one ``iter_*`` folder).

    Raises:
        InputError: the folder is not a complete distributed checkpoint.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / METADATA
        if not path.is_file():
            raise InputError(
                f"{folder}: not a complete distributed checkpoint: {METADATA} is missing. It is written last: another "
                "process may still be writing, or was interrupted while writing."
            )
        self._tensors = _read_metadata(path)
        self._files: dict[str, SourceFile] = {}
        self._stored: dict[_Chunk, StoredTensor] = {}
        self._check_files()

    def names(self) -> list[str]:
        """Names of all tensors, including those of the optimizer."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def read_rows(self, name: str, index: tuple[int, ...], first: int, out: torch.Tensor) -> None:
        """Fills ``out`` ``[rows, ...]`` with rows of tensor ``name``.

        Args:
            index: place along the leading dimensions (layer, expert) that ``out`` does not have.
            first: number of the first row.
            out: contiguous, of the tensor's type.

        Raises:
            InputError: a file of the checkpoint is missing or damaged, or a part of the tensor is in no file.
        """
        tensor, depth = self._tensors[name], len(index)
        last = first + len(out)
        found = 0
        for chunk in tensor.chunks:
            inside = (o <= i < o + s for i, o, s in zip(index, chunk.offsets, chunk.sizes))
            begin = max(first, chunk.offsets[depth])
            end = min(last, chunk.offsets[depth] + chunk.sizes[depth])
            if begin >= end or not all(inside):
                continue
            columns = [slice(o, o + s) for o, s in zip(chunk.offsets[depth + 1 :], chunk.sizes[depth + 1 :])]
            window = (slice(begin - first, end - first), *columns)
            target = out[window]
            self._read(name, chunk, index, begin, target)
            found += target.numel()
        if found != out.numel():
            raise InputError(
                f"{self.folder}: rows {first} to {last} of {name} {list(index)} are not complete: {found:,} of "
                f"{out.numel():,} elements are in the checkpoint"
            )

    def _read(self, name: str, chunk: _Chunk, index: tuple[int, ...], first: int, target: torch.Tensor) -> None:
        stored = self._chunk(name, chunk)
        depth = len(index)
        leading = 0
        for place, offset, size in zip(index, chunk.offsets, chunk.sizes):
            leading = leading * size + place - offset
        row = prod(chunk.sizes[depth + 1 :])
        element = (leading * chunk.sizes[depth] + first - chunk.offsets[depth]) * row
        if target.is_contiguous():
            stored.read_elements(element, target)
            return
        rows = torch.empty(target.shape, dtype=target.dtype)
        stored.read_elements(element, rows)
        target.copy_(rows)

    def _chunk(self, name: str, chunk: _Chunk) -> StoredTensor:
        if chunk in self._stored:
            return self._stored[chunk]
        file = self._file(chunk.file)
        record, places = torch_file.read_object(file, chunk.position, chunk.length)
        if not isinstance(record, TensorRecord) or record.size != chunk.sizes:
            raise InputError(
                f"{file.path}: {name} at byte {chunk.position:,} is not the tensor that {METADATA} describes"
            )
        if record.dtype != self._tensors[name].dtype:
            raise InputError(
                f"{file.path}: {name} has type {record.dtype}, {METADATA} says {self._tensors[name].dtype}"
            )
        self._stored[chunk] = stored = torch_file.stored(file, record, places, name)
        return stored

    def _file(self, name: str) -> SourceFile:
        if name not in self._files:
            self._files[name] = SourceFile(self.folder / name)
        return self._files[name]

    def _check_files(self) -> None:
        ends: dict[str, int] = defaultdict(int)
        for tensor in self._tensors.values():
            for chunk in tensor.chunks:
                if Path(chunk.file).name != chunk.file:
                    raise InputError(f"{self.folder / METADATA}: names {chunk.file!r}, which is not in the folder")
                ends[chunk.file] = max(ends[chunk.file], chunk.position + chunk.length)
        for name, end in sorted(ends.items()):
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"{path}: missing from the checkpoint")
            if path.stat().st_size < end:
                raise InputError(f"{path}: truncated: {path.stat().st_size:,} of {end:,} bytes")


def _read_metadata(path: Path) -> dict[str, _Tensor]:
    content = safe_pickle.load(path.read_bytes(), path)
    try:
        places: dict[Any, Any] = {
            (index.fqn, tuple(getattr(index, "offset", None) or ())): place
            for index, place in content.storage_data.items()
        }
        tensors = {}
        for name, described in content.state_dict_metadata.items():
            if type(described).__name__ != "TensorStorageMetadata":
                continue
            dtype = described.properties.state[0]
            chunks = tuple(
                _chunk_of(path, name, tuple(chunk.offsets), tuple(chunk.sizes), places) for chunk in described.chunks
            )
            tensors[name] = _Tensor(dtype, tuple(described.size), chunks)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{path}: not the metadata of a torch distributed checkpoint: {error}") from error
    return tensors


def _chunk_of(
    path: Path, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], places: dict[Any, Any]
) -> _Chunk:
    place = places.get((name, offsets)) or places.get((name, ()))
    if place is None:
        raise InputError(f"{path}: does not say where {name} at {list(offsets)} is")
    if getattr(place, "transform_descriptors", None):
        raise InputError(f"{path}: {name} is stored compressed, which is not supported; save it without")
    return _Chunk(offsets, sizes, str(place.relative_path), int(place.offset), int(place.length))
