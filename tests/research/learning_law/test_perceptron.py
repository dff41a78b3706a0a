"""The perceptron: derivatives in closed form against torch.func, and the distributions of the paper."""

from __future__ import annotations

import pytest
import torch

from megatron_ipt.research.learning_law.perceptron import PerceptronConfig, losses, perceptron
from megatron_ipt.research.learning_law.policy import Search, gradient, run_search, uniform
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.problem import Problem

SMALL = PerceptronConfig(width=5, examples=30, desired=12)


def small(dtype=torch.float64):
    return perceptron(SMALL, 0.3, 11, dtype)


def test_derivatives_are_those_of_torch():
    model = small()
    desired = model.calculus._desired
    exact = ForwardMode(Problem(losses, [lambda theta: losses(theta, desired).mean()]))
    (batch,) = model.batches
    draws = torch.Generator().manual_seed(2)
    theta, direction, weights = (torch.randn(size, generator=draws).double() for size in (5, 5, 30))
    for name, arguments in (
        ("gradient", (theta, batch, weights)), ("slopes", (theta, batch, direction)),
        ("slopes_and_curvature", (theta, batch, weights, direction)), ("target", (theta,)),
    ):  # fmt: skip
        found, expected = getattr(model.calculus, name)(*arguments), getattr(exact, name)(*arguments)
        for one, other in zip((found,) if name == "slopes" else found, (expected,) if name == "slopes" else expected):
            assert (one - other).abs().max() < 1e-12 and other.abs().max() > 1e-2


def test_the_distributions_of_the_paper():
    model = perceptron(PerceptronConfig(), 0.1, 1, torch.float64)
    (training,) = model.batches
    desired = model.calculus._desired
    assert training.inputs.shape == (4096, 128) and desired.inputs.shape == (512, 128)
    assert training.inputs.var().item() == pytest.approx(3, rel=0.02) and training.inputs.mean().abs() < 0.02
    assert desired.inputs.mean().item() == pytest.approx(0.5, abs=0.02)
    assert desired.inputs.var().item() == pytest.approx(1, rel=0.02)
    # The hyperplane goes through the middle of the training data.
    assert 0.45 < training.labels.mean() < 0.55
    again, other = (perceptron(PerceptronConfig(), 0.1, seed, torch.float64) for seed in (1, 2))
    assert torch.equal(again.batches[0].inputs, training.inputs)
    assert not torch.equal(other.batches[0].inputs, training.inputs)


def test_the_search_comes_close_to_the_conditions_at_an_optimum():
    model = small()
    state = Search(uniform(8, 30), 0.5)
    best = run_search(model, state, 500, True, 1e-7, lambda *_: None)
    first, last = state.history[0], state.history[-1]
    assert best.area < 0.95 * first["area"]
    assert last["gap"] < 1e-4 * first["gap"]
    # Whoever has no weight has exactly none.
    assert (state.weights == 0).double().mean() > 0.5


def test_in_fp32_gains_agree_as_far_as_it_goes():
    exact, rounded = (gradient(small(dtype), uniform(20, 30)) for dtype in (torch.float64, torch.float32))
    assert (exact.gains - rounded.gains).abs().max() < 1e-5 * exact.gains.abs().max()
