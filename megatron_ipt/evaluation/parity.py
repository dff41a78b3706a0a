"""Checks that the exported model is the trained one, by comparing their logits on the same tokens."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.errors import StageError


def compare_logits(trained: torch.Tensor, exported: torch.Tensor) -> dict[str, float]:
    """Differences between two logit tensors ``[tokens, vocabulary]`` in fp32.

    Returns:
        ``max_abs_difference``; ``logit_spread``, the standard deviation of the trained model's logits, as its scale;
        ``argmax_agreement``, the fraction of positions with the same most likely token.
    """
    return {
        "max_abs_difference": (trained - exported).abs().max().item(),
        "logit_spread": trained.std().item(),
        "argmax_agreement": (trained.argmax(-1) == exported.argmax(-1)).double().mean().item(),
    }


ROUNDING = {"bfloat16": 0.2, "float16": 0.03}
"""Differences, in standard deviations of the logits, that rounding fp32 weights to these types can cause in a deep
model. A conversion bug causes differences of about one standard deviation."""


def parity_tolerance(tolerance: float, trained_dtype: str, exported_dtype: str) -> float:
    """``tolerance``, or the effect of rounding if the export's data type differs from the checkpoint's."""
    return tolerance if exported_dtype == trained_dtype else max(tolerance, ROUNDING.get(exported_dtype, 0.0))


def check_parity(result: dict[str, Any], tolerance: float) -> None:
    """Raises StageError if the difference exceeds ``tolerance`` times the standard deviation of the logits."""
    relative = result["max_abs_difference"] / max(result["logit_spread"], 1e-12)
    if not relative <= tolerance:
        raise StageError(
            f"evaluation: the exported model does not match the trained one: logits differ by up to "
            f"{result['max_abs_difference']:.3g}, {relative:.3g} of their standard deviation; the maximum is "
            f"{tolerance:g} (evaluation.parity_tolerance). Export again; if the error persists, the conversion of this "
            "model family has a bug."
        )
