"""A tensor as contiguous bytes at an offset in a file, as safetensors files, torch files and checkpoint chunks have it.

Rows are read with ``pread`` into the caller's memory, from any thread: nothing is mapped, so that only what was
requested is in memory, and the files may be larger than it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from megatron_ipt.errors import InputError

BLOCK_BYTES = 4_000_000


class SourceFile:
    """A file open for reading at any offset, by any thread.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened: {error.strerror or error}") from error
        self.size = os.fstat(self._descriptor).st_size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills ``buffer`` with the bytes starting at ``offset``.

        Raises:
            InputError: the file ends before that, or cannot be read.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
            if count == 0:
                raise InputError(
                    f"{self.path}: truncated: ends at byte {self.size:,}, {offset + len(buffer):,} are needed"
                )
            done += count

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes starting at ``offset``. Raises as :meth:`read_into`."""
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@dataclass(frozen=True)
class StoredTensor:
    """A row-major tensor at ``offset`` of ``file``."""

    file: SourceFile
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def read_elements(self, first: int, out: torch.Tensor) -> None:
        """Fills the contiguous ``out``, of this dtype, with the elements starting at ``first``.

        Raises:
            InputError: the file is truncated or cannot be read.
        """
        if out.numel():
            self.file.read_into(as_bytes(out), self.offset + first * self.dtype.itemsize)

    def read_rows(self, first: int, out: torch.Tensor) -> None:
        """Fills ``out`` ``[rows, ...]`` with the rows starting at ``first``. Raises as :meth:`read_elements`."""
        self.read_elements(first * prod(self.shape[1:]), out)

    def blocks(self) -> Iterator[torch.Tensor]:
        """The tensor in blocks of whole rows. Raises as :meth:`read_elements`."""
        most = rows_of_block(self.shape, self.dtype)
        for first in range(0, self.shape[0], most):
            block = torch.empty((min(most, self.shape[0] - first), *self.shape[1:]), dtype=self.dtype)
            self.read_rows(first, block)
            yield block


def rows_of_block(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """How many rows of a tensor to convert at a time: as many as fit in the processor's cache, at least one."""
    return max(1, BLOCK_BYTES // max(1, prod(shape[1:]) * dtype.itemsize))


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
