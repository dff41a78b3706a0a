"""What the paper reads off a training run: compression, contributions, speed-up, and the law of its loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.research.learning_law.policy import Model, trajectory

if TYPE_CHECKING:
    import torch

Curve = npt.NDArray[np.float64]
"""Losses after 0, 1, ... T steps, [steps + 1]."""


def compression_ratio(losses: Curve, vocabulary: int) -> float:
    """T ln V over the sum of the losses after steps 1 to T: how much shorter the desired data become when each is coded
    with the model of its step (arXiv:2402.17759, section 4.3)."""
    return float((len(losses) - 1) * math.log(vocabulary) / losses[1:].sum())


def speed_up(conventional: Curve, policy: Curve) -> float | None:
    """Steps of conventional training over those in which ``policy`` reaches its last loss; None if it never does."""
    reached = np.flatnonzero(policy[1:] <= conventional[-1])
    return (len(conventional) - 1) / (float(reached[0]) + 1) if len(reached) else None


@dataclass(frozen=True)
class Contributions:
    """How much the examples of each step contribute at once, CT[t, n] = grad L(theta_t) . grad l_n(theta_t).

    At an exact optimum of the area it is the gains of :class:`~.policy.Gradient` that are equal, not these, which look
    one step ahead only. They are what the paper shows.

    Attributes:
        similarity: weighted mean over standard deviation (n - 1, about that mean) of the examples with weight, by step,
            [steps]; infinite where all are equal, NaN where fewer than two have weight.
        left_out: share of the examples with CT <= 0 that have no weight, over all steps; None if there are none.
        test: loss of the test examples before each step and after the last, [steps + 1].
    """

    similarity: Curve
    left_out: float | None
    test: Curve


def contributions(model: Model, weights: torch.Tensor, every: int = 1) -> Contributions:
    """Follows a policy once more.

    Args:
        weights: fp64 [steps, examples].
        every: contributions are computed at every so-manieth step; others are NaN.
    """
    import torch

    steps = len(weights)
    similarity = np.full(steps, np.nan)
    test = np.empty(steps + 1)
    without, bad = 0, 0
    for step, theta in enumerate(trajectory(model, weights)):
        test[step] = float(model.test(theta))
        if step == steps or step % every:
            continue
        direction = model.calculus.target(theta)[1]
        parts = [model.calculus.slopes(theta, batch, direction).double() for batch in model.batches]
        found = torch.cat(parts).cpu()
        row = weights[step]
        has_weight = row > 0
        mean = float((row * found).sum())
        count = int(has_weight.sum())
        if count > 1:
            deviation = math.sqrt(float((found[has_weight] - mean).square().sum()) / (count - 1))
            similarity[step] = mean / deviation if deviation else math.inf
        bad += int((found <= 0).sum())
        without += int(((found <= 0) & ~has_weight).sum())
    return Contributions(similarity, without / bad if bad else None, test)


@dataclass(frozen=True)
class ScalingLaw:
    """L(t) = floor + (scale / t) ** exponent.

    Attributes:
        floor: the loss that remains, in nats.
        scale: B, in steps.
        exponent: beta.
        residual: root mean square of the logarithms' differences.
    """

    floor: float
    scale: float
    exponent: float
    residual: float


def fit_scaling_law(steps: Sequence[float], losses: Sequence[float], floor: float | None = None) -> ScalingLaw:
    """Least squares in log L over log t; steps count from 1.

    For a given floor, log(L - floor) is a line in log t. The floor itself is searched between 0 and the lowest loss
    unless it is given.

    Raises:
        InputError: fewer than four points, or losses that do not fall.
    """
    x, y = np.log(np.asarray(steps, np.float64)), np.asarray(losses, np.float64)
    if len(y) < 4 or len(x) != len(y):
        raise InputError(f"a scaling law has three parameters: {len(y)} losses are too few")
    if not y[-1] < y[0]:
        raise InputError(f"a scaling law is about losses that fall: found {y[0]:.4g} at first and {y[-1]:.4g} at last")
    floors = [floor] if floor is not None else list(float(y.min()) * (1 - np.geomspace(1e-4, 1, 400)))
    return min((_line(x, y, candidate) for candidate in floors), key=lambda law: law.residual)


def _line(x: Curve, y: Curve, floor: float) -> ScalingLaw:
    slope, offset = np.polyfit(x, np.log(y - floor), 1)
    predicted = np.log(floor + np.exp(offset + slope * x))
    residual = float(np.sqrt(np.mean((predicted - np.log(y)) ** 2)))
    exponent = max(-float(slope), 1e-12)
    return ScalingLaw(float(floor), float(np.exp(min(offset / exponent, 700.0))), exponent, residual)
