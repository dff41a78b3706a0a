"""How much a proxy run computes: for progress, and for what it costs.

The unit is the forward pass of one document. A gradient is three of them, a Hessian-vector product two gradients, and
the slope of a loss two forward passes, by either way of taking derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from megatron_ipt.selection.pds.problem import Calculus
from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch

GRADIENT, SLOPE, CURVATURE = 3, 2, 6


def passes(steps: int, batch: int | None, documents: int, score_every: int, targets: int) -> int:
    """Forward passes of a document in one run and its way back.

    Args:
        batch: documents of a step; None for all, which are then scored by the pass that takes the curvature.
        documents: that are scored.
        targets: texts of the target.
    """
    keep_every = math.isqrt(steps - 1) + 1
    again = (math.ceil(steps / keep_every) - 1) * (keep_every - 1)
    trained_on = documents if batch is None else batch
    scored = 1 if batch is None else math.ceil(steps / score_every)
    forwards = (steps + again) * trained_on * GRADIENT
    backwards = (steps - 1) * trained_on * CURVATURE + scored * documents * SLOPE
    return forwards + backwards + steps * targets * GRADIENT


class Counted:
    """A calculus that says after each call how many passes it took.

    Args:
        targets: number of target texts on this rank.
        advance: is told the passes.
    """

    def __init__(self, calculus: Calculus, targets: int, advance: Callable[[int], object]):
        self._calculus = calculus
        self._targets = targets
        self._advance = advance

    def gradient(self, theta: Theta, batch: Any, weights: torch.Tensor) -> tuple[torch.Tensor, Theta]:
        found = self._calculus.gradient(theta, batch, weights)
        self._advance(GRADIENT * len(batch))
        return found

    def slopes(self, theta: Theta, batch: Any, direction: Theta) -> torch.Tensor:
        found = self._calculus.slopes(theta, batch, direction)
        self._advance(SLOPE * len(batch))
        return found

    def slopes_and_curvature(
        self, theta: Theta, batch: Any, weights: torch.Tensor, direction: Theta
    ) -> tuple[torch.Tensor, Theta]:
        found = self._calculus.slopes_and_curvature(theta, batch, weights, direction)
        self._advance(CURVATURE * len(batch))
        return found

    def target(self, theta: Theta) -> tuple[torch.Tensor, Theta]:
        found = self._calculus.target(theta)
        self._advance(GRADIENT * self._targets)
        return found
