"""Reads this rank's part of a Hugging Face model into a chunk of a Megatron-Core model, and nothing else.

Both sides hold the same rows in another order (:mod:`megatron_ipt.models.tensor_mapping`), so a part of one is some
rows, and perhaps a range of columns, of the other; safetensors files give those without reading the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from safetensors import SafetensorError, safe_open

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.tensor_mapping import MegatronTensor, hugging_face_shapes, megatron_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of ``folder``.

    Raises:
        InputError: there is none.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX).get("weight_map", {})
        return [folder / name for name in sorted(set(names.values()))]
    raise InputError(
        f"{folder}: has neither {SINGLE} nor {INDEX}; convert the model with `megatron-ipt import` and name the "
        "checkpoint instead"
    )


@torch.no_grad()
def load_hugging_face_weights(
    chunk: torch.nn.Module, groups: Any, folder: Path, shape: ModelShape, vocab_size: int, padded_vocab_size: int
) -> None:
    """Fills ``chunk`` from the files of ``folder``; rows that pad the vocabulary become 0.

    Args:
        groups: process groups that ``chunk`` was built with.
        vocab_size: rows of the embedding in the files.

    Raises:
        InputError: a tensor is missing, or of another shape than the configuration says.
    """
    tensors = {(tensor.name, tensor.index): tensor for tensor in megatron_tensors(shape, vocab_size, padded_vocab_size)}
    state = chunk.sharded_state_dict(metadata={"dp_cp_group": groups.dp_cp})
    apply_factories(state)
    with ExitStack() as stack:
        source = open_weights(folder, dict(hugging_face_shapes(shape, vocab_size)), stack)
        for shard in nested_values(state):
            if isinstance(shard, ShardedTensor) and shard.data is not None:
                index = tuple(shard.global_offset[: shard.prepend_axis_num])
                _fill(shard, tensors[shard.key, index], source)


def open_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]], stack: ExitStack) -> dict[str, Any]:
    """The tensors of ``folder`` by name, of which parts can be read until ``stack`` is closed.

    Args:
        shapes: of the tensors that there must be.

    Raises:
        InputError: a file cannot be read, or a tensor is missing or of another shape.
    """
    source: dict[str, Any] = {}
    for path in weight_files(folder):
        try:
            file = stack.enter_context(safe_open(str(path), "pt"))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        source |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    _check(folder, source, shapes)
    return source


def _check(folder: Path, source: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(shapes.keys() - source.keys())
    if missing:
        raise InputError(
            f"{folder}: lacks {missing[0]}" + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + ", which its config.json asks for"
        )  # fmt: skip
    for name, wanted in shapes.items():
        found = tuple(source[name].get_shape())
        if found != wanted:
            raise InputError(f"{folder}: {name} has shape {list(found)}, config.json says {list(wanted)}")


def _fill(shard: ShardedTensor, tensor: MegatronTensor, source: Mapping[str, Any]) -> None:
    target = shard.data
    assert target is not None
    first, *columns = shard.global_offset[shard.prepend_axis_num :]
    target.zero_()
    for begin, end, name, row in _rows(tensor, first, first + target.size(0)):
        part = source[name]
        if columns:
            found = part[row : row + end - begin, columns[0] : columns[0] + target.size(1)]
        else:
            found = part[row : row + end - begin]
        target[begin - first : end - first].copy_(found)


def _rows(tensor: MegatronTensor, first: int, last: int) -> Iterator[tuple[int, int, str, int]]:
    """(begin, end, name, row) for rows ``first`` to ``last`` of ``tensor``: the rows from begin to end are those of the
    tensor ``name`` from ``row`` on."""
    for part in tensor.parts:
        for rows in part.ranges:
            begin, end = max(first, rows.megatron), min(last, rows.megatron + rows.count)
            if begin < end:
                yield begin, end, part.name, rows.hugging_face + begin - rows.megatron
