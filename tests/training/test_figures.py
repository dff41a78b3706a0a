"""Numbers that a person worked out: operations per token, peaks of GPUs, percentiles, what FP8 needs."""

from __future__ import annotations

import importlib.util

import pytest

from megatron_ipt.models.families import resolve_shape
from megatron_ipt.models.flops import flops_per_token, peak_tflops


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


@pytest.mark.parametrize(("preset", "billions"), [("mixtral_8x7b", 46.7), ("qwen2.5_1.5b", 1.5), ("qwen3_0.6b", 0.6)])
def test_presets_have_the_published_sizes(preset: str, billions: float) -> None:
    vocabulary = 32000 if "mixtral" in preset else 151936
    assert round(resolve_shape({"preset": preset}).parameters(vocabulary) / 1e9, 1) == billions


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_percentiles_are_values_that_occurred() -> None:
    from megatron_ipt.training.loop.telemetry import percentile

    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (0, 50, 51, 95, 100)] == [1.0, 2.0, 3.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("recipe", "capability", "engine", "reason"),
    [
        ("delayed", (8, 9), (1, 5), None),
        ("delayed", (8, 0), (2, 5), "needs compute capability 8.9, this GPU has 8.0"),
        ("tensorwise", (9, 0), (2, 1), "needs Transformer Engine 2.2, installed is 2.1"),
        ("blockwise", (8, 9), (2, 5), "needs compute capability 9.0"),
        ("mxfp8", (9, 0), (2, 5), "needs compute capability 10.0"),
        ("mxfp8", (10, 0), (2, 1), None),
    ],
)
def test_what_fp8_needs(recipe: str, capability: tuple[int, int], engine: tuple[int, int], reason: str | None) -> None:
    from megatron_ipt.training.model.precision import why_not

    found = why_not(recipe, capability, engine)
    assert found is None if reason is None else reason in (found or "")
