"""Operations per token and peaks of GPUs, worked out by hand."""

from __future__ import annotations

import pytest

from megatron_ipt.models.flops import flops_per_token, peak_tflops
from megatron_ipt.models.presets import resolve_shape


def test_operations_of_one_token() -> None:
    shape = resolve_shape({"preset": "tiny"})
    # A layer: 64*64 query and output each, 2*64*32 key and value, 3*64*160 feed-forward; output layer 512*64.
    products = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) + 512 * 64
    assert flops_per_token(shape, 512, 256) == 6 * (products + 2 * 64 * 256)


def test_tied_output_layer_counts_as_any_other() -> None:
    tied = resolve_shape({"preset": "tiny", "untie_embeddings_and_output_weights": False})
    assert flops_per_token(tied, 512, 256) == flops_per_token(resolve_shape({"preset": "tiny"}), 512, 256)


def test_only_the_chosen_experts_count() -> None:
    shape = resolve_shape({"preset": "tiny_moe"})
    more = resolve_shape({"preset": "tiny_moe", "num_moe_experts": 8})
    routers = 6 * 2 * 64 * 4
    assert flops_per_token(more, 512, 32) - flops_per_token(shape, 512, 32) == routers
    # 2 * 4 * 3 * 64 * 96 of experts, 2 * 4 * 64 of routers.
    dense = resolve_shape({"preset": "tiny", "ffn_hidden_size": 96})
    assert shape.parameters(512) - dense.parameters(512) == 2 * 3 * 3 * 64 * 96 + 2 * 4 * 64


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H200", "fp8", 1979.0),
        ("NVIDIA A100-SXM4-80GB", "fp8", None),
        ("Tesla P4", "bf16", None),
    ],
)
def test_peaks(device: str, precision: str, peak: float | None) -> None:
    assert peak_tflops(device, precision) == peak


def test_norms_and_biases_are_no_matrix_products() -> None:
    sizes = {"preset": "tiny", "kv_channels": 16}
    plain = flops_per_token(resolve_shape(sizes), 512, 256)
    assert flops_per_token(resolve_shape({**sizes, "family": "qwen2"}), 512, 256) == plain
    assert flops_per_token(resolve_shape({**sizes, "family": "qwen3"}), 512, 256) == plain
