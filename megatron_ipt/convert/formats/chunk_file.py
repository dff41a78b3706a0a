"""Writes one chunk of a distributed checkpoint: the bytes that ``torch.save`` would write for a tensor.

``torch.save`` needs the tensor in memory; the archive itself does not: it is a pickle that describes the tensor, then
its bytes. So a chunk of any size can be written in blocks that fit the processor's cache. As after
``torch.serialization.set_crc32_options(False)``, the bytes of the tensor have no checksum, which torch never reads and
which would take a third of the time: the checkpoint has a checksum of each of its files.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from math import prod
from typing import Any

import torch

from megatron_ipt.convert.formats.stored_tensor import as_bytes
from megatron_ipt.convert.output_folder import Output

_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
}
_LOCAL = struct.Struct("<4s5HI2I2H")
_CENTRAL = struct.Struct("<4s6HI2I5H2I")
_SIZES = struct.Struct("<2H2Q")
_SIZES_AND_PLACE = struct.Struct("<2H3Q")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_IN_EXTRA, _IN_END64 = 0xFFFFFFFF, 0xFFFF
_VERSION, _DATE = 45, 0x21


class _Bytes:
    """Represents the storage of the tensor in its pickle."""


class _Tensor:
    """Pickles as the tensor would."""

    def __init__(self, shape: tuple[int, ...], storage: _Bytes):
        self._shape, self._storage = shape, storage

    def __reduce__(self) -> tuple[Any, ...]:
        stride = tuple(prod(self._shape[axis + 1 :]) for axis in range(len(self._shape)))
        arguments: tuple[Any, ...] = (self._storage, 0, self._shape, stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, reference: tuple[Any, ...]):
        super().__init__(stream, protocol=2)
        self._reference = reference

    def persistent_id(self, value: Any) -> Any:
        return self._reference if isinstance(value, _Bytes) else None


class _Archive:
    """An uncompressed zip archive (ZIP64, as torch's) written from front to back, all sizes known beforehand."""

    def __init__(self, output: Output):
        self._output, self._start, self._directory, self._entries = output, output.position, b"", 0

    def begin(self, name: str, size: int, checksum: int = 0) -> None:
        """Writes what precedes the ``size`` bytes of an entry."""
        encoded, place = f"archive/{name}".encode(), self._place
        common = (0, 0, 0, _DATE, checksum, _IN_EXTRA, _IN_EXTRA, len(encoded))
        self._output.write(_LOCAL.pack(b"PK\3\4", _VERSION, *common, _SIZES.size) + encoded)
        self._output.write(_SIZES.pack(1, 16, size, size))
        central = _CENTRAL.pack(b"PK\1\2", _VERSION, _VERSION, *common, _SIZES_AND_PLACE.size, 0, 0, 0, 0, _IN_EXTRA)
        self._directory += central + encoded + _SIZES_AND_PLACE.pack(1, 24, size, size, place)
        self._entries += 1

    def add(self, name: str, content: bytes) -> None:
        """Writes a small entry."""
        self.begin(name, len(content), zlib.crc32(content))
        self._output.write(content)

    def end(self) -> None:
        """Writes the directory of entries."""
        place, size, count = self._place, len(self._directory), self._entries
        self._output.write(self._directory)
        end = self._place
        rest = (_VERSION, _VERSION, 0, 0, count, count, size, place)
        self._output.write(_END64.pack(b"PK\6\6", _END64.size - 12, *rest))
        self._output.write(_LOCATOR.pack(b"PK\6\7", 0, end, 1))
        self._output.write(_END.pack(b"PK\5\6", 0, 0, _IN_END64, _IN_END64, _IN_EXTRA, _IN_EXTRA, 0))

    @property
    def _place(self) -> int:
        return self._output.position - self._start


def save_chunk(
    output: Output, shape: tuple[int, ...], dtype: torch.dtype, blocks: Iterable[torch.Tensor]
) -> tuple[int, int]:
    """Appends a tensor to ``output``; returns position and length in bytes.

    Args:
        blocks: contiguous, of ``dtype``, together the elements of ``shape`` in order.

    Raises:
        ValueError: the blocks hold more or fewer elements.
    """
    position, elements = output.position, prod(shape)
    pickled = io.BytesIO()
    _Pickler(pickled, ("storage", _STORAGES[dtype], "0", "cpu", elements)).dump(_Tensor(shape, _Bytes()))
    archive = _Archive(output)
    archive.add("data.pkl", pickled.getvalue())
    archive.add("byteorder", b"little")
    archive.add("version", b"3\n")
    archive.begin("data/0", elements * dtype.itemsize)
    left = elements
    for block in blocks:
        output.write(as_bytes(block))
        left -= block.numel()
    if left:
        raise ValueError(f"blocks of a tensor {shape} left {left} of {elements} elements out")
    archive.end()
    return position, output.position - position
