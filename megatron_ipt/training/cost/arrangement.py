"""One way to lay a model out on GPUs, and the parameters that each GPU then holds. Exact counts, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.models.families import FAMILIES, ModelShape


@dataclass(frozen=True)
class Arrangement:
    """World size cut up, and the batch.

    Attributes:
        tensor, pipeline, context, data, expert: parallel sizes; ``tensor * pipeline * context * data`` GPUs.
        virtual: model chunks of a pipeline stage; 1 without interleaving.
        micro_batch_size: sequences of one forward pass.
        global_batch_size: sequences of an optimizer step.
        sequence_parallel: norms and residuals are split over the tensor-parallel ranks.
        recompute: ``none``, ``selective`` (attention) or ``full``.
        distributed_optimizer: optimizer state is spread over the data- and context-parallel ranks.
        overlap: gradients are reduced and parameters gathered behind the computation.
    """

    tensor: int
    pipeline: int
    data: int
    micro_batch_size: int
    global_batch_size: int
    context: int = 1
    expert: int = 1
    virtual: int = 1
    sequence_parallel: bool = True
    recompute: str = "none"
    distributed_optimizer: bool = True
    overlap: bool = True

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def micro_batches(self) -> int:
        """Forward passes of one data-parallel rank in a step."""
        return self.global_batch_size // (self.micro_batch_size * self.data)

    def label(self) -> str:
        """``TP2 PP1 DP32 mbs4``, with what differs from the plain case."""
        parts = [f"TP{self.tensor}", f"PP{self.pipeline}"]
        if self.virtual > 1:
            parts.append(f"VP{self.virtual}")
        if self.context > 1:
            parts.append(f"CP{self.context}")
        if self.expert > 1:
            parts.append(f"EP{self.expert}")
        parts += [f"DP{self.data}", f"mbs{self.micro_batch_size}"]
        if self.recompute != "none":
            parts.append(f"recompute:{self.recompute}")
        return " ".join(parts)


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one transformer layer by how they are divided."""

    split: int
    """Over tensor-parallel ranks: attention and dense feed-forward."""
    experts: int
    """Over tensor- and expert-parallel ranks."""
    whole: int
    """On every rank: norms and the router."""

    @property
    def total(self) -> int:
        return self.split + self.experts + self.whole


def layer_parameters(shape: ModelShape) -> LayerParameters:
    """Parameters of one layer of ``shape``."""
    family = FAMILIES[shape.family]
    queries = shape.num_attention_heads * shape.kv_channels
    keys_values = 2 * shape.num_query_groups * shape.kv_channels
    attention = shape.hidden_size * (2 * queries + keys_values)
    attention += (queries + keys_values) * family.add_qkv_bias
    whole = 2 * shape.hidden_size + 2 * shape.kv_channels * family.qk_layernorm
    mlp = (3 if family.gated_linear_unit else 2) * shape.hidden_size * shape.ffn_hidden_size
    if shape.num_moe_experts:
        router = shape.hidden_size * shape.num_moe_experts
        return LayerParameters(attention, mlp * shape.num_moe_experts, whole + router)
    return LayerParameters(attention + mlp, 0, whole)


@dataclass(frozen=True)
class StageParameters:
    """Parameters on one GPU of a pipeline stage; experts apart, because fewer ranks share their optimizer state."""

    dense: float
    experts: float


def stage_parameters(
    shape: ModelShape, padded_vocab_size: int, arrangement: Arrangement, stage: int
) -> StageParameters:
    """Parameters on one GPU of pipeline stage ``stage`` (from 0)."""
    layer = layer_parameters(shape)
    layers = shape.num_layers / arrangement.pipeline
    dense = layers * (layer.split / arrangement.tensor + layer.whole)
    experts = layers * layer.experts / (arrangement.tensor * arrangement.expert)
    vocabulary = padded_vocab_size * shape.hidden_size / arrangement.tensor
    last = stage == arrangement.pipeline - 1
    if stage == 0:
        dense += vocabulary
    if last:
        dense += shape.hidden_size
        # Tied weights need no copy where both ends are on one stage.
        if shape.untie_embeddings_and_output_weights or stage != 0:
            dense += vocabulary
    return StageParameters(dense, experts)
