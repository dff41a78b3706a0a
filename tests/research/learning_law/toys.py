"""Problems small enough to know their optimum."""

from __future__ import annotations

import torch

from megatron_ipt.research.learning_law.policy import Model
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.problem import Problem
from tests.selection.pds.small_problems import QUADRATIC, origin


def model_of(problem, examples, learning_rate, micro_batches=None, start=None, test=None):
    sizes = micro_batches or [examples]
    return Model(
        calculus=ForwardMode(problem),
        test=test or (lambda theta: sum(part(theta) for part in problem.targets)),
        start=origin() if start is None else start,
        batches=list(torch.arange(examples).split(sizes)),
        sizes=sizes,
        learning_rate=learning_rate,
        vocabulary=2,
        name="toy",
    )


def quadratic():
    """Three rows; the best is to train on the third alone."""
    return model_of(QUADRATIC, 3, 0.1)


INTERIOR = Problem(
    losses=lambda theta, batch: (theta[batch] - 3).square() / 2,
    targets=[lambda theta: (2 * (theta[0] - 1).square() + (theta[1] - 2).square()) / 2],
)


def interior():
    """Two rows, each of which moves one parameter towards 3; the optimum has weight on both in both steps."""
    return model_of(INTERIOR, 2, 0.25)


def curved(examples=6, width=4, seed=3):
    """A two-layer network on random rows, in which nothing is quadratic."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    inputs, labels = normal(examples, 3), normal(examples)
    target_inputs, target_labels = normal(5, 3), normal(5)

    def output(theta, rows):
        hidden = (rows @ theta["first"]).tanh()
        return hidden @ theta["second"]

    problem = Problem(
        losses=lambda theta, batch: (output(theta, inputs[batch]) - labels[batch]).square() / 2,
        targets=[lambda theta: (output(theta, target_inputs) - target_labels).square().mean() / 2],
    )
    return problem, {"first": normal(3, width), "second": normal(width)}
