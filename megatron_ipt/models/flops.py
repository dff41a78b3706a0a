"""Floating-point operations of training, and the peak of the GPUs they run on.

Per trained token, as counted in Narayanan et al. (arXiv:2104.04473, appendix) and in PaLM's appendix B
(arXiv:2204.02311), with causal attention at half of full attention::

    6 * (weights of matrix products) + 6 * layers * heads * channels * seq_length

Two operations (multiply, add) per weight in the forward pass and four in the backward pass. The embedding is a look-up
and does not count, the output layer does. Recomputed activations are not counted: MFU measures the model, not the work
of the machine.
"""

from __future__ import annotations

from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.weights import OUTPUT_LAYER

PEAK_TFLOPS = {
    "A100": {"bf16": 312.0},
    "A10G": {"bf16": 70.0},
    "L40S": {"bf16": 362.0, "fp8": 733.0},
    "L4": {"bf16": 121.0, "fp8": 242.0},
    "H100 PCIe": {"bf16": 756.0, "fp8": 1513.0},
    "H100": {"bf16": 989.0, "fp8": 1979.0},
    "H200": {"bf16": 989.0, "fp8": 1979.0},
    "GH200": {"bf16": 989.0, "fp8": 1979.0},
    "B200": {"bf16": 2250.0, "fp8": 4500.0},
    "GB200": {"bf16": 2450.0, "fp8": 4900.0},
}
"""Dense tensor-core TFLOP/s by a part of the device's name, from NVIDIA's data sheets."""


def flops_per_token(shape: ModelShape, padded_vocab_size: int, seq_length: int) -> float:
    """Floating-point operations, forward and backward, for one token of a sequence of ``seq_length``."""
    sizes = shape.sizes(padded_vocab_size)
    experts = min(shape.moe_router_topk, shape.num_moe_experts or 0)
    of_layer = sum(
        weight.parameters(sizes) * (experts if weight.per_expert else 1)
        for weight in FAMILIES[shape.family].layer
        if weight.is_matrix
    )
    attention = shape.num_layers * shape.num_attention_heads * shape.kv_channels * seq_length
    return 6.0 * (shape.num_layers * of_layer + OUTPUT_LAYER.parameters(sizes) + attention)


def peak_tflops(device: str, precision: str) -> float | None:
    """Peak TFLOP/s of a GPU called ``device`` in ``precision``; None if it is not in the table."""
    matches = [name for name in PEAK_TFLOPS if name.lower() in device.lower()]
    return PEAK_TFLOPS[max(matches, key=len)].get(precision) if matches else None
