"""The weights in a Hugging Face model folder: which tensors there are, and where in which files.

Only names, sizes and bytes are read; no code in the folder is run, and pickles are read as data. A folder with an
index must have exactly what the index says, since a tensor that is silently missing would be trained from noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_ipt.convert.formats import torch_file
from megatron_ipt.convert.formats.safe_pickle import TensorRecord
from megatron_ipt.convert.formats.safetensors_reader import read_header
from megatron_ipt.convert.formats.stored_tensor import SourceFile, StoredTensor
from megatron_ipt.convert.messages import listed
from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_UNUSED = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias")
"""Buffers that old versions of transformers saved and that are not needed."""


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Where each weight in ``folder`` is stored, by name; safetensors are preferred over torch files.

    Raises:
        InputError: there are no weights; a file is missing, truncated or damaged; the index contradicts the files.
    """
    for single, index, read in (
        (SAFETENSORS, SAFETENSORS_INDEX, read_header),
        (TORCH, TORCH_INDEX, _read_torch_file),
    ):
        # A single file takes precedence over an index, as in transformers.
        if (folder / single).is_file():
            found = read(SourceFile(folder / single))
            break
        if (folder / index).is_file():
            found = _read_indexed(folder, folder / index, read)
            break
    else:
        wanted = ", ".join((SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX))
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise InputError(f"{folder}: contains no weights; expected one of {wanted}; found {there}")
    return {name: tensor for name, tensor in found.items() if not name.endswith(_UNUSED)}


def _read_indexed(
    folder: Path, index: Path, read: Callable[[SourceFile], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: not an index of weights: it has no weight_map")
    for name in set(map(str, weight_map.values())):
        if Path(name).name != name:
            raise InputError(f"{index}: names {name!r}, which is not a file in the folder of the model")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: missing; {index.name} names it. Download the file.")
        there = read(SourceFile(path))
        expected = {tensor for tensor, file in weight_map.items() if file == name}
        _check_same(path, index, there.keys() - expected, expected - there.keys())
        tensors |= there
    return tensors


def _check_same(path: Path, index: Path, extra: set[str], missing: set[str]) -> None:
    if missing:
        raise InputError(f"{path}: lacks {listed(sorted(missing))}, which {index.name} places there")
    if extra:
        raise InputError(f"{path}: contains {listed(sorted(extra))}, which {index.name} does not place there")


def _read_torch_file(file: SourceFile) -> dict[str, StoredTensor]:
    content, places = torch_file.read_object(file)
    if not isinstance(content, dict):
        raise InputError(f"{file.path}: not a dictionary of weights")
    return {
        str(name): torch_file.stored(file, record, places, str(name))
        for name, record in content.items()
        if isinstance(record, TensorRecord)
    }
