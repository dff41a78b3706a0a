"""Is the exported model the trained one? Both read the same tokens, and their logits are compared."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.errors import StageError


def compare_logits(trained: torch.Tensor, exported: torch.Tensor) -> dict[str, float]:
    """Differences of two logit tensors ``[tokens, vocabulary]`` in fp32.

    Returns:
        ``max_abs_difference``; ``logit_spread``, the standard deviation of the trained model's logits, as a scale for
        it; ``argmax_agreement``, the share of positions where both prefer the same token.
    """
    return {
        "max_abs_difference": (trained - exported).abs().max().item(),
        "logit_spread": trained.std().item(),
        "argmax_agreement": (trained.argmax(-1) == exported.argmax(-1)).double().mean().item(),
    }


ROUNDING = {"bfloat16": 0.2, "float16": 0.03}
"""Differences, in spreads of the logits, that rounding fp32 weights to these types may make in a deep model. A mistake
of the conversion makes differences of the order of the spread itself."""


def parity_tolerance(tolerance: float, trained_dtype: str, exported_dtype: str) -> float:
    """``tolerance``, or what rounding explains where the export has fewer bits than the checkpoint."""
    return tolerance if exported_dtype == trained_dtype else max(tolerance, ROUNDING.get(exported_dtype, 0.0))


def check_parity(result: dict[str, Any], tolerance: float) -> None:
    """Raises StageError when the difference exceeds ``tolerance`` of the logits' spread."""
    relative = result["max_abs_difference"] / max(result["logit_spread"], 1e-12)
    if not relative <= tolerance:
        raise StageError(
            f"evaluation: the exported model is not the trained one: logits differ by up to "
            f"{result['max_abs_difference']:.3g}, {relative:.3g} of their spread; allowed are {tolerance:g} "
            "(evaluation.parity_tolerance). Export again; if it persists, the conversion of this family is at fault."
        )
