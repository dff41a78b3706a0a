"""Seconds of a training step.

The model's operations (:func:`~megatron_ipt.models.flops.flops_per_token`) at the share of peak that kernels
reach, plus everything that does not overlap with them:

* recomputation: ``full`` repeats the forward pass, a third of the model's operations, ``selective`` that of attention;
* tensor parallelism: four all-reduces of ``[seq, batch, hidden]`` a layer, two forward and two backward (Shoeybi et
  al., arXiv:1909.08053, section 3; as reduce-scatter and all-gather with sequence parallelism, equal in bytes), two
  more with full recomputation; inside a node, at ``LINK_SHARE`` of the link;
* pipeline: a bubble of ``(pp - 1)/(vp * micro-batches)`` (Narayanan et al., arXiv:2104.04473, section 2.2), and
  one message of ``[seq, batch, hidden]`` a chunk and micro-batch each way, cut over the tensor-parallel ranks (section
  4.1 there);
* data parallelism: fp32 gradients reduced and bf16 weights gathered once per step, of which ``EXPOSED`` remains visible
  with overlap;
* the optimizer: its state is read and written once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import Gpu
from megatron_ipt.training.cost.arrangement import Arrangement, stage_parameters

LINK_SHARE = 0.75
"""Of a link's rated bandwidth that large collectives reach."""
WIDTH_FACTOR = 5.0
"""Width at which a layer's memory traffic and arithmetic take as long, over the GPU's operations a byte (fitted)."""
EXPOSED = 0.25
"""Of gradient reduction and weight gathering that overlap leaves visible."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by cause."""

    compute: float
    recompute: float
    tensor_parallel: float
    pipeline_messages: float
    bubble: float
    data_parallel: float
    optimizer: float
    teacher: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, float]:
        parts = asdict(self)
        if not self.teacher:
            del parts["teacher"]
        return {**parts, "total": self.total}


def step_time(
    shape: ModelShape,
    padded_vocab_size: int,
    seq_length: int,
    precision: str,
    arrangement: Arrangement,
    gpu: Gpu,
    gpus_per_node: int = 8,
    kernel_share: float | None = None,
) -> StepTime:
    """Seconds of one optimizer step.

    Args:
        precision: ``bf16`` or ``fp8``; fp32 is taken for bf16, which GPUs train in.
        kernel_share: instead of the GPU's own.
    """
    precision = "bf16" if precision in ("fp32", "auto") else precision
    share = kernel_share or gpu.kernel_share[precision]
    # Norms, activations and residuals move h values for every h*h of arithmetic; they weigh more on narrow models and
    # on GPUs with much arithmetic for their memory.
    half_width = WIDTH_FACTOR * gpu.peak_flops(precision) / (gpu.memory_gb_s * 1e9)
    share *= shape.hidden_size / (shape.hidden_size + half_width)
    tokens = arrangement.global_batch_size * seq_length
    operations = flops_per_token(shape, padded_vocab_size, seq_length)
    in_bf16 = _operations_in_bf16(shape, padded_vocab_size, seq_length) if precision == "fp8" else 0.0
    seconds = (operations - in_bf16) / (gpu.peak_flops(precision) * share)
    if in_bf16:
        seconds += in_bf16 / (gpu.peak_flops("bf16") * gpu.kernel_share["bf16"])
    compute = seconds * tokens / arrangement.world_size
    full = arrangement.recompute == "full"
    again = compute / 3 if full else 0.0
    if arrangement.recompute == "selective":
        again = compute / 3 * _attention_operations(shape, seq_length) / operations

    tensor, pipeline = arrangement.tensor, arrangement.pipeline
    link = (gpu.nvlink_gb_s if tensor <= gpus_per_node else gpu.network_gb_s) * 1e9 * LINK_SHARE
    local_tokens = arrangement.micro_batch_size * seq_length / arrangement.context
    message = 2 * local_tokens * shape.hidden_size
    all_reduces = (6 if full else 4) * shape.num_layers / pipeline * arrangement.micro_batches
    tensor_parallel = all_reduces * 2 * (tensor - 1) / tensor * message / link

    messages = 0.0
    if pipeline > 1:
        bandwidth = gpu.network_gb_s * 1e9 * LINK_SHARE
        messages = 2 * arrangement.virtual * arrangement.micro_batches * message / tensor / bandwidth

    busy = compute + again + tensor_parallel
    bubble = busy * (pipeline - 1) / (arrangement.virtual * arrangement.micro_batches)

    parameters = stage_parameters(shape, padded_vocab_size, arrangement, 0)
    ranks = arrangement.data * arrangement.context
    near = tensor * arrangement.context * arrangement.data <= gpus_per_node and pipeline == 1
    between = (gpu.nvlink_gb_s if near else gpu.network_gb_s) * 1e9 * LINK_SHARE
    held = parameters.dense + parameters.experts
    data_parallel = (4 + 2) * held * (ranks - 1) / ranks / between * (EXPOSED if arrangement.overlap else 1)
    updated = held / (ranks if arrangement.distributed_optimizer else 1)
    return StepTime(
        compute=compute,
        recompute=again,
        tensor_parallel=tensor_parallel,
        pipeline_messages=messages,
        bubble=bubble,
        data_parallel=data_parallel,
        optimizer=2 * 16 * updated / (gpu.memory_gb_s * 1e9),
    )


def _operations_in_bf16(shape: ModelShape, padded_vocab_size: int, seq_length: int) -> float:
    """Per token: what FP8 recipes leave in bf16, the attention itself and the output layer."""
    return _attention_operations(shape, seq_length) + 6.0 * padded_vocab_size * shape.hidden_size


def _attention_operations(shape: ModelShape, seq_length: int) -> float:
    """Per token, forward and backward, of the products with scores; causal."""
    return 6.0 * shape.num_layers * shape.num_attention_heads * shape.kv_channels * seq_length
