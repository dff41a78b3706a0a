"""Types of weights, and weights that are no numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from megatron_ipt.errors import InputError

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name in recipes and on the command line -> type."""

WEIGHTS = tuple(DTYPES.values())
_LISTED = 12


def type_name(dtype: torch.dtype) -> str:
    """``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def not_finite(values: torch.Tensor) -> int:
    """How many of ``values`` are infinite or no number.

    Smallest and largest value carry any of them, and are found several times faster than by testing each.
    """
    if not values.numel() or torch.isfinite(torch.stack(torch.aminmax(values))).all():
        return 0
    return sum(int((~torch.isfinite(block)).sum()) for block in values.reshape(-1).split(1 << 22))


def report_not_finite(source: Path, found: dict[str, int], allowed: bool) -> None:
    """Warns about weights that are infinite or no number, or refuses them.

    Raises:
        InputError: there are some and they are not allowed.
    """
    if not found:
        return
    listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(found.items())[:_LISTED])
    more = f" and {len(found) - _LISTED} more tensors" if len(found) > _LISTED else ""
    message = f"{source}: holds weights that are infinite or no number: {listed}{more}"
    if not allowed:
        raise InputError(f"{message}. Such a model cannot predict; say --allow-not-finite to convert it all the same.")
    logger.warning("%s", message)
