"""Where the bytes of each tensor are in a safetensors file, checked against the file before any is read.

The safetensors library maps a file into memory, where every page that was ever read counts; reading at an offset limits
memory to what is being converted. The format: eight bytes with the length of a JSON header, the header, then the bytes
of all tensors.
"""

from __future__ import annotations

from math import prod
from typing import Any

import orjson
import torch

from megatron_ipt.convert.formats.stored_tensor import SourceFile, StoredTensor
from megatron_ipt.errors import InputError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000


def read_header(file: SourceFile) -> dict[str, StoredTensor]:
    """Where each tensor in ``file`` is stored, by name.

    Raises:
        InputError: the file is truncated, has extra bytes, or its header is damaged.
    """
    header = _header(file)
    start = 8 + int.from_bytes(file.read(0, 8), "little")
    tensors, ends = {}, {start}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensors[name] = tensor = _tensor(file, name, entry, start)
        ends.add(tensor.offset + tensor.size)
    if max(ends) != file.size:
        what = "truncated" if max(ends) > file.size else "damaged"
        raise InputError(
            f"{file.path}: {what}: {file.size:,} bytes, its header describes {max(ends):,}. Download the file again."
        )
    return tensors


def _header(file: SourceFile) -> dict[str, Any]:
    if file.size < 8:
        raise InputError(f"{file.path}: truncated: {file.size} bytes are not a safetensors file")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _LONGEST_HEADER:
        raise InputError(f"{file.path}: not a safetensors file: the length of its header would be {length:,} bytes")
    try:
        header = orjson.loads(file.read(8, length))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{file.path}: not a safetensors file: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{file.path}: not a safetensors file: its header is not an object")
    return header


def _tensor(file: SourceFile, name: str, entry: Any, start: int) -> StoredTensor:
    try:
        dtype, shape, (first, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
        if dtype not in DTYPES:
            raise InputError(f"{file.path}: {name} has type {dtype}; supported: {', '.join(DTYPES)}")
        if first < 0 or min(shape, default=0) < 0 or end - first != prod(shape) * DTYPES[dtype].itemsize:
            raise InputError(f"{file.path}: damaged: {name} of {dtype} {list(shape)} cannot have {end - first} bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file.path}: damaged: entry of {name} in the header: {error}") from error
    return StoredTensor(file, start + first, DTYPES[dtype], shape)
