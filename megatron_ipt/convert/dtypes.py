"""Types of weights, and weights that are not finite."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from megatron_ipt.convert.messages import listed
from megatron_ipt.errors import InputError

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type by its name in recipes and on the command line."""

WEIGHTS = tuple(DTYPES.values())


def type_name(dtype: torch.dtype) -> str:
    """``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def not_finite(values: torch.Tensor) -> int:
    """How many of ``values`` are NaN or infinite.

    The minimum and maximum show whether there are any, several times faster than testing each value.
    """
    if not values.numel() or torch.isfinite(torch.stack(torch.aminmax(values))).all():
        return 0
    return sum(int((~torch.isfinite(block)).sum()) for block in values.reshape(-1).split(1 << 22))


def report_not_finite(source: Path, found: dict[str, int], allowed: bool) -> None:
    """Warns about weights that are NaN or infinite, or rejects them.

    Args:
        found: how many there are, by tensor.

    Raises:
        InputError: there are some and they are not allowed.
    """
    if not found:
        return
    tensors = listed([f"{name} ({count:,})" for name, count in sorted(found.items())])
    message = f"{source}: weights are NaN or infinite: {tensors}"
    if not allowed:
        raise InputError(f"{message}. Such a model cannot predict; use --allow-not-finite to convert it anyway.")
    logger.warning("%s", message)
