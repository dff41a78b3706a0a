"""Bytes on one GPU during training: weights, gradients, optimizer state, activations.

Weights, gradients, optimizer (bytes a parameter; Megatron-Core's distributed optimizer guide): bf16 weights 2, fp32
gradient sums 4, fp32 main weights and two Adam moments 12, of which each of ``d`` data-parallel ranks holds one part:
``6 + 12/d``. In fp32 the weights are their own main weights: ``8 + 8/d``.

Activations follow Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models"
(arXiv:2205.05198, sections 4 and 5), tensor by tensor, for what is trained here: RMSNorm, grouped queries, a gated
feed-forward block, no dropout, and attention kernels that keep no scores. A token of one layer keeps, in bf16::

    2*h  norm input          2*h  input of QKV       2*(q + 2*kv)  Q, K, V     2*q  output of attention
    2*h  norm input          2*h  input of FC1       4*ffn  output of FC1      2*ffn  input of FC2

The first, fifth and so on that are ``h`` wide are divided by the tensor-parallel size only with sequence parallelism.
Full recomputation keeps ``2*h`` (section 5). A 1F1B pipeline's first stage holds ``min(pp, micro-batches)`` of them,
interleaving adds ``1 + (pp - 1)/(pp * vp)`` (section 4.2.3). The last stage's logits take ``2 + 4`` bytes each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.hardware import GIB
from megatron_ipt.training.cost.arrangement import Arrangement, stage_parameters

RESERVED_GIB = 3.0
"""CUDA context, NCCL buffers, workspaces and what fragmentation leaves unused (stated, not derived)."""


@dataclass(frozen=True)
class Memory:
    """GiB on the fullest GPU; ``teacher`` is a second, frozen model, left out of tables if there is none."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    reserved: float = RESERVED_GIB
    teacher: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, float]:
        parts = asdict(self)
        if not self.teacher:
            del parts["teacher"]
        return {**parts, "total": self.total}


def activation_bytes_per_token(shape: ModelShape, arrangement: Arrangement, bytes_each: int = 2) -> float:
    """Bytes that one token leaves in one layer of one GPU for the backward pass."""
    hidden, tensor = shape.hidden_size, arrangement.tensor
    along_sequence = tensor if arrangement.sequence_parallel else 1
    if arrangement.recompute == "full":
        return bytes_each * hidden / along_sequence
    queries = shape.num_attention_heads * shape.kv_channels
    keys_values = 2 * shape.num_query_groups * shape.kv_channels
    gated = FAMILIES[shape.family].gated_linear_unit
    widths = {
        "norms": 2 * hidden / along_sequence,
        "linear inputs": 2 * hidden / along_sequence,
        "queries keys values": (queries + keys_values) / tensor,
        "attention output": queries / tensor,
    }
    if arrangement.recompute == "selective":
        # The attention itself is repeated; its inputs stay.
        widths.pop("attention output")
    experts = shape.moe_router_topk if shape.num_moe_experts else 1
    feed_forward = experts * (3 if gated else 2) * shape.ffn_hidden_size / tensor
    if shape.num_moe_experts:
        # Every token is copied to each of its experts, and back.
        feed_forward += 2 * experts * hidden / along_sequence
    softmax_sums = 4 * shape.num_attention_heads / tensor
    return bytes_each * (sum(widths.values()) + feed_forward) + softmax_sums


def memory_of_stage(
    shape: ModelShape,
    padded_vocab_size: int,
    seq_length: int,
    precision: str,
    arrangement: Arrangement,
    stage: int,
) -> Memory:
    """Memory of one GPU of pipeline stage ``stage``."""
    parameters = stage_parameters(shape, padded_vocab_size, arrangement, stage)
    everything = parameters.dense + parameters.experts
    weights, optimizer = (4, 8) if precision == "fp32" else (2, 12)
    dense_ranks = arrangement.data * arrangement.context if arrangement.distributed_optimizer else 1
    expert_ranks = max(1, dense_ranks // arrangement.expert) if arrangement.distributed_optimizer else 1
    state = optimizer * (parameters.dense / dense_ranks + parameters.experts / expert_ranks)

    bytes_each = 4 if precision == "fp32" else 2
    tokens = seq_length * arrangement.micro_batch_size / arrangement.context
    layers = shape.num_layers / arrangement.pipeline
    in_flight = float(min(arrangement.pipeline - stage, arrangement.micro_batches))
    if arrangement.virtual > 1:
        in_flight += (arrangement.pipeline - 1) / arrangement.virtual
    kept = tokens * layers * in_flight * activation_bytes_per_token(shape, arrangement, bytes_each)
    if arrangement.recompute == "full":
        # One layer at a time is computed again in full.
        again = Arrangement(**{**asdict(arrangement), "recompute": "none"})
        kept += tokens * activation_bytes_per_token(shape, again, bytes_each)
    if stage == arrangement.pipeline - 1:
        logits = tokens * padded_vocab_size / arrangement.tensor
        kept += logits * (bytes_each + 4) + tokens * shape.hidden_size * bytes_each
    return Memory(
        weights=weights * everything / GIB,
        gradients=4 * everything / GIB,
        optimizer=state / GIB,
        activations=kept / GIB,
    )


def memory_of(
    shape: ModelShape, padded_vocab_size: int, seq_length: int, precision: str, arrangement: Arrangement
) -> Memory:
    """Memory of the fullest GPU."""
    stages = {0, arrangement.pipeline - 1}
    return max(
        (memory_of_stage(shape, padded_vocab_size, seq_length, precision, arrangement, stage) for stage in stages),
        key=lambda memory: memory.total,
    )
