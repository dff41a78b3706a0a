"""Arithmetic of one token, and what a GPU could do at most: the two halves of TFLOP/s and MFU. Formulas, no torch.

Per trained token, as counted in Narayanan et al. (arXiv:2104.04473, appendix) and in PaLM's appendix B
(arXiv:2204.02311), with causal attention at half of full attention::

    6 * (weights of matrix products) + 6 * layers * heads * channels * seq_length

Two operations (multiply, add) for each weight forward and four backward; the embedding is a look-up and does not count,
the output layer does. Activations computed again are not counted: MFU is about the model, not the machine's work.
"""

from __future__ import annotations

from megatron_ipt.models.families import ModelShape

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
    embedding = padded_vocab_size * shape.hidden_size
    norms = (2 * shape.num_layers + 1) * shape.hidden_size
    weights = shape.parameters(padded_vocab_size, active_only=True) - norms
    # Tied weights are counted once and used twice, of which the look-up is free; untied ones hold it apart.
    products = weights - (embedding if shape.untie_embeddings_and_output_weights else 0)
    attention = shape.num_layers * shape.num_attention_heads * shape.kv_channels * seq_length
    return 6.0 * (products + attention)


def peak_tflops(device: str, precision: str) -> float | None:
    """Most TFLOP/s of a GPU called ``device`` in ``precision``; None where the table does not know it."""
    matches = [name for name in PEAK_TFLOPS if name.lower() in device.lower()]
    return PEAK_TFLOPS[max(matches, key=len)].get(precision) if matches else None
