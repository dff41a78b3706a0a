"""The files of a distributed checkpoint as Megatron-Core lays them out, without a process group or Megatron-Core.

A layer of a stacked tensor is a chunk of its own, and gate and up are two, as Megatron-Core itself saves them: a rank
that loads reads only the layers it needs. ``.metadata`` says where each chunk lies and is written after them.
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

from megatron_ipt.convert.checkpoint_reader import BACKEND, METADATA
from megatron_ipt.convert.layouts import Joined, Part
from megatron_ipt.files import atomic_open
from megatron_ipt.training.families import FAMILIES, ModelShape

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
    """A rectangle of a stacked tensor, and the parts that are in it.

    Attributes:
        first: row of the layer's tensor with which the chunk begins.
        shape: of the chunk, without the stacked dimensions.
    """

    joined: Joined
    first: int
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def offsets(self) -> tuple[int, ...]:
        return (*self.joined.index, self.first, *[0] * (len(self.shape) - 1))

    @property
    def full_shape(self) -> tuple[int, ...]:
        return (*[1] * len(self.joined.index), *self.shape)


def chunks_of(joined: Joined, dtype: torch.dtype) -> list[Chunk]:
    """One chunk for a tensor, or one for each of the parts that lie one after another."""
    if len(joined.parts) == 1 or joined.by_group:
        return [Chunk(joined, 0, joined.shape, joined.parts, dtype)]
    return [Chunk(joined, part.runs[0].megatron, part.shape, (part,), dtype) for part in joined.parts]


def extra_states(shape: ModelShape) -> Iterable[str]:
    """Names of the FP8 states that modules of Transformer Engine ask a checkpoint for; all of them empty."""
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
        chunks: each with its file, and position and length in it.
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
        joined = chunk.joined
        if joined.megatron not in described:
            described[joined.megatron] = TensorStorageMetadata(
                TensorProperties(chunk.dtype), torch.Size((*joined.stack, *joined.shape)), []
            )
        offsets = torch.Size(chunk.offsets)
        described[joined.megatron].chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk.full_shape)))
        places[MetadataIndex(joined.megatron, offsets)] = _StorageInfo(file, position, length)
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
    """Writes what Megatron-LM reads before the tensors: its arguments, and that nothing was trained yet."""
    with atomic_open(folder / COMMON) as stream:
        torch.save(
            {"checkpoint_version": 3.0, "iteration": 0, "args": arguments, "content_metadata": dict(_CONTENT)}, stream
        )
    with atomic_open(folder / BACKEND, "w") as stream:
        stream.write(_BACKEND)


def megatron_arguments(shape: ModelShape, seq_length: int, vocab_size: int, padded_vocab_size: int) -> Namespace:
    """What Megatron-LM's ``--use-checkpoint-args`` takes from a checkpoint, and what a reader of one needs besides.

    Epsilon and rope scaling are there, but Megatron-LM does not take them from a checkpoint: its user must pass them.
    """
    family = FAMILIES[shape.family]
    return Namespace(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        seq_length=seq_length,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        group_query_attention=shape.num_query_groups != shape.num_attention_heads,
        kv_channels=shape.kv_channels,
        max_position_embeddings=shape.max_position_embeddings,
        position_embedding_type="rope",
        add_position_embedding=True,
        use_rotary_position_embeddings=True,
        rotary_base=int(shape.rotary_base),
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=shape.rope_scaling_factor is not None,
        rope_scaling_factor=shape.rope_scaling_factor or 8.0,
        add_bias_linear=False,
        add_qkv_bias=family.add_qkv_bias,
        qk_layernorm=family.qk_layernorm,
        squared_relu=False,
        swiglu=family.gated_linear_unit,
        untie_embeddings_and_output_weights=shape.untie_embeddings_and_output_weights,
        apply_layernorm_1p=False,
        normalization=family.normalization,
        norm_epsilon=shape.norm_epsilon,
        layernorm_epsilon=shape.norm_epsilon,
        init_method_std=shape.init_method_std,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        num_experts=shape.num_moe_experts,
        moe_ffn_hidden_size=shape.ffn_hidden_size if shape.num_moe_experts else None,
        moe_router_topk=shape.moe_router_topk,
        moe_router_pre_softmax=False,
        vocab_size=vocab_size,
        padded_vocab_size=padded_vocab_size,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        ckpt_format="torch_dist",
        no_save_optim=True,
        no_save_rng=True,
        consumed_train_samples=0,
        consumed_valid_samples=0,
    )
