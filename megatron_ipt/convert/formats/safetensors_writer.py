"""Plans safetensors files, so that they can be written tensor by tensor.

The safetensors library saves a dictionary of tensors that are all in memory. The format does not require that: it is a
header with every name, type, shape and offset, then the bytes in order. Since all shapes are known beforehand, tensors
can be converted, written and discarded one at a time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from megatron_ipt.errors import RecipeError
from megatron_ipt.files import write_json

INDEX = "model.safetensors.index.json"
_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class TensorPlan:
    """A tensor that will be written: its name, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


def parse_size(text: str) -> int:
    """Number of bytes in ``500MB``, ``5GB``, ``2GiB``.

    Raises:
        RecipeError: ``text`` is not such a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in _UNITS:
        raise RecipeError(f"export.max_shard_size: {text!r} is not a size; write e.g. 500MB or 5GB")
    return int(float(match[1]) * _UNITS[match[2]])


def pack(plans: list[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    """Divides ``plans``, in order, into files of at most ``max_bytes``; a larger tensor gets a separate file."""
    files: list[list[TensorPlan]] = []
    used = max_bytes
    for plan in plans:
        if used + plan.size > max_bytes:
            files.append([])
            used = 0
        files[-1].append(plan)
        used += plan.size
    return files


def file_names(count: int) -> list[str]:
    """Names that transformers expects: ``model.safetensors``, or ``model-00001-of-00003.safetensors`` ..."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def header(plans: list[TensorPlan]) -> bytes:
    """The beginning of a file with ``plans`` in this order; only their bytes follow."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for plan in plans:
        entries[plan.name] = {
            "dtype": _TYPE_NAMES[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [position, position + plan.size],
        }
        position += plan.size
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def write_index(folder: Path, files: list[list[TensorPlan]]) -> None:
    """Writes the index of a model in several files."""
    names = file_names(len(files))
    weight_map = {plan.name: name for name, plans in zip(names, files) for plan in plans}
    total = sum(plan.size for plans in files for plan in plans)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
