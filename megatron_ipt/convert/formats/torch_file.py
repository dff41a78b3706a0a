"""Files and chunks that ``torch.save`` wrote: which tensors are in them, and at which offsets.

Such a file is an uncompressed zip archive: a pickle that describes the tensors, and one entry of bytes per storage.
The pickle is read as data (see :mod:`~megatron_ipt.convert.formats.safe_pickle`); bytes are read when needed.
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from megatron_ipt.convert.formats import safe_pickle
from megatron_ipt.convert.formats.safe_pickle import TensorRecord
from megatron_ipt.convert.formats.stored_tensor import SourceFile, StoredTensor
from megatron_ipt.errors import InputError

_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Window(io.RawIOBase):
    """Part of a file, used as a file."""

    def __init__(self, file: SourceFile, offset: int, length: int):
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._position))
        if count:
            self._file.read_into(memoryview(buffer)[:count], self._offset + self._position)
            self._position += count
        return count


def read_object(file: SourceFile, offset: int = 0, length: int | None = None) -> tuple[Any, dict[str, int]]:
    """The object at ``offset`` of ``file``, with :class:`TensorRecord` instead of tensors, and where the bytes of each
    storage begin.

    Raises:
        InputError: it is damaged, or not in torch's zip format.
    """
    length = file.size - offset if length is None else length
    try:
        with zipfile.ZipFile(io.BufferedReader(_Window(file, offset, length), 4096)) as archive:
            entries = archive.infolist()
            (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
            content = safe_pickle.load(archive.read(pickled), file.path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(
            f"{file.path}: damaged, or not a file of torch.save since version 1.6: {error}. Save older files "
            "again with torch, or as safetensors."
        ) from error
    prefix = pickled.filename.removesuffix("data.pkl") + "data/"
    places = {
        entry.filename.removeprefix(prefix): _data_offset(file, offset, entry)
        for entry in entries
        if entry.filename.startswith(prefix) and entry.compress_type == zipfile.ZIP_STORED
    }
    return content, places


def stored(file: SourceFile, record: TensorRecord, places: dict[str, int], name: str) -> StoredTensor:
    """Where the bytes of ``record`` are.

    Raises:
        InputError: its storage is missing, or its elements are not in order.
    """
    if record.storage not in places:
        raise InputError(f"{file.path}: the bytes of {name} are missing")
    expected, step = [], 1
    for size in reversed(record.size):
        expected.append(step)
        step *= size
    in_order = all(a == b for a, b, size in zip(record.stride, reversed(expected), record.size) if size > 1)
    if not in_order and 0 not in record.size:
        raise InputError(f"{file.path}: {name} is not stored row by row; save the model again as safetensors")
    start = places[record.storage] + record.offset * record.dtype.itemsize
    tensor = StoredTensor(file, start, record.dtype, record.size)
    if start + tensor.size > file.size:
        raise InputError(f"{file.path}: truncated: the bytes of {name} end at {start + tensor.size:,} of {file.size:,}")
    return tensor


def _data_offset(file: SourceFile, offset: int, entry: zipfile.ZipInfo) -> int:
    start = offset + entry.header_offset
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(start, _LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise InputError(f"{file.path}: damaged at byte {start:,}")
    return int(start + _LOCAL_HEADER.size + name_length + extra_length)
