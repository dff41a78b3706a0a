"""The files of a distributed checkpoint as Megatron-Core writes them, without a process group or Megatron-Core.

Each layer of a stacked tensor is a chunk, and gate and up are two, as Megatron-Core itself saves them: a rank that
loads reads only the layers it needs. ``.metadata`` says where each chunk is and is written after them.
"""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.convert.checkpoint.reader import BACKEND, METADATA
from megatron_ipt.files import atomic_open
from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.tensor_mapping import HuggingFaceTensor, MegatronTensor

COMMON = "common.pt"
_BACKEND = (
    '{"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", '
    '"common_backend_version": 1}'
)
_CONTENT = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
_STATEFUL = ("self_attention.linear_qkv", "self_attention.linear_proj", "self_attention.core_attention")
_STATEFUL_DENSE = ("mlp.linear_fc1", "mlp.linear_fc2")
_STATEFUL_EXPERTS = ("mlp.experts.experts.linear_fc1", "mlp.experts.experts.linear_fc2")


@dataclass(frozen=True)
class Chunk:
    """A rectangle of a stacked tensor, and the Hugging Face tensors in it.

    Attributes:
        first: row of the layer's tensor at which the chunk begins.
        shape: of the chunk, without the stacked dimensions.
    """

    tensor: MegatronTensor
    first: int
    shape: tuple[int, ...]
    parts: tuple[HuggingFaceTensor, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def offsets(self) -> tuple[int, ...]:
        return (*self.tensor.index, self.first, *[0] * (len(self.shape) - 1))

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (*[1] * len(self.tensor.index), *self.shape)


def chunks_of(tensor: MegatronTensor, dtype: torch.dtype) -> list[Chunk]:
    """One chunk for a tensor, or one for each of the parts that follow one another."""
    if len(tensor.parts) == 1 or tensor.by_group:
        return [Chunk(tensor, 0, tensor.shape, tensor.parts, dtype)]
    return [Chunk(tensor, part.ranges[0].megatron, part.shape, (part,), dtype) for part in tensor.parts]


def extra_states(shape: ModelShape) -> Iterable[str]:
    """Names of the FP8 states that Transformer Engine's modules expect in a checkpoint; all of them are empty."""
    layers, experts = shape.num_layers, shape.num_moe_experts
    names = _STATEFUL if experts else (*_STATEFUL, *_STATEFUL_DENSE)
    for layer in range(layers):
        for name in names:
            yield f"decoder.layers.{name}._extra_state/shard_{layer}_{layers}"
        for expert in range(experts or 0):
            for name in _STATEFUL_EXPERTS:
                yield f"decoder.layers.{name}._extra_state/shard_{layer}.{expert}_{layers}.{experts}"
    yield "decoder.final_layernorm._extra_state/shard_0_1"


def write_metadata(
    folder: Path, chunks: list[tuple[Chunk, str, tuple[int, int]]], states: list[str], states_file: str
) -> None:
    """Writes the file of empty FP8 states and ``.metadata``.

    Args:
        chunks: each with the file that contains it, and its position and length there, in bytes.
        states: names of the empty states.
    """
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        StorageMeta,
        TensorProperties,
        TensorStorageMetadata,
    )

    described: dict[str, Any] = {}
    places: dict[Any, Any] = {}
    for chunk, file, (position, length) in chunks:
        tensor = chunk.tensor
        if tensor.name not in described:
            described[tensor.name] = TensorStorageMetadata(
                TensorProperties(chunk.dtype), torch.Size((*tensor.stack, *tensor.shape)), []
            )
        offsets = torch.Size(chunk.offsets)
        described[tensor.name].chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk.full_shape)))
        places[MetadataIndex(tensor.name, offsets)] = _StorageInfo(file, position, length)
    buffer = io.BytesIO()
    torch.save([None], buffer)
    empty = buffer.getvalue()
    with atomic_open(folder / states_file) as stream:
        for number, name in enumerate(states):
            stream.write(empty)
            described[name] = BytesStorageMetadata()
            places[MetadataIndex(name)] = _StorageInfo(states_file, number * len(empty), len(empty))
    metadata = Metadata(described, storage_data=places, storage_meta=StorageMeta())
    with atomic_open(folder / METADATA) as stream:
        pickle.dump(metadata, stream)


def write_common(folder: Path, arguments: Namespace) -> None:
    """Writes what Megatron-LM reads before the tensors: its arguments, and iteration 0."""
    with atomic_open(folder / COMMON) as stream:
        torch.save(
            {"checkpoint_version": 3.0, "iteration": 0, "args": arguments, "content_metadata": dict(_CONTENT)}, stream
        )
    with atomic_open(folder / BACKEND, "w") as stream:
        stream.write(_BACKEND)
