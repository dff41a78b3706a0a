"""Problems in two parameters, small enough to follow by hand: a quadratic one and a curved one."""

from __future__ import annotations

import torch

from megatron_ipt.selection.pds.dynamics import Examples
from megatron_ipt.selection.pds.problem import Problem

FEATURES = torch.tensor([[1.0, 2.0], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
_TARGET_FEATURES = torch.tensor([[1.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
_TARGET_LABELS = torch.tensor([2.0, -1.0], dtype=torch.float64)

QUADRATIC = Problem(
    # A batch is the numbers of its rows.
    losses=lambda theta, batch: (FEATURES[batch] @ theta - LABELS[batch]).square() / 2,
    targets=[lambda theta: (_TARGET_FEATURES @ theta - _TARGET_LABELS).square().sum() / 4],
)

_CURVED_FEATURES = torch.tensor([[1.0, 0.5], [2.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
_CURVED_LABELS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)

CURVED = Problem(
    losses=lambda theta, batch: (-_CURVED_LABELS[batch] * (_CURVED_FEATURES[batch] @ theta)).exp().log1p(),
    targets=[lambda theta: (-theta.sum()).exp().log1p()],
)


def origin() -> torch.Tensor:
    return torch.zeros(2, dtype=torch.float64)


def rows(*numbers: int, weights: list[float] | None = None) -> Examples:
    batch = torch.tensor(numbers, dtype=torch.int64)
    return Examples(batch, batch, None if weights is None else torch.tensor(weights, dtype=torch.float64))
