"""Projection of every row on the probability simplex, by sorting: exact, with exact zeros.

The nearest point with non-negative entries of sum 1 is max(v - tau, 0). With the entries sorted downwards, tau is (sum
of the first k - 1) / k for the largest k at which the k-th entry is still above it (Held, Wolfe, Crowder, 1974).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def project(rows: torch.Tensor) -> torch.Tensor:
    """The nearest points on the simplex, in fp64.

    Args:
        rows: [rows, entries], any real numbers.
    """
    import torch

    values = rows.double()
    ordered = values.sort(dim=1, descending=True).values
    counts = torch.arange(1, values.shape[1] + 1, dtype=torch.float64, device=values.device)
    thresholds = (ordered.cumsum(1) - 1) / counts
    last = (ordered > thresholds).sum(1, keepdim=True).clamp_min(1) - 1
    return (values - thresholds.gather(1, last)).clamp_min(0)
