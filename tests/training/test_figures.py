"""Numbers that a person worked out: percentiles, what FP8 needs."""

from __future__ import annotations

import importlib.util

import pytest


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
