"""Figures of a run against hand-worked values and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.research.learning_law.measures import (
    compression_ratio,
    contributions,
    fit_scaling_law,
    speed_up,
)
from megatron_ipt.research.learning_law.policy import Search, run_search, uniform
from tests.research.learning_law.toys import curved, interior, model_of


def test_compression_and_speed_up_worked_by_hand():
    losses = np.array([9.0, 4.0, 2.0, 2.0])
    # Three steps of ln 7 over 4 + 2 + 2.
    assert compression_ratio(losses, 7) == pytest.approx(3 * math.log(7) / 8)
    assert speed_up(losses, np.array([9.0, 3.0, 2.0, 1.0])) == 3 / 2
    assert speed_up(losses, losses) == 3 / 2
    assert speed_up(losses, np.array([0.0, 3.0, 3.0, 2.5])) is None


def test_contributions_at_the_optimum_are_not_equal():
    """They look one step ahead; what is equal there are the gains."""
    model = interior()
    search = Search(uniform(2, 2), 0.1)
    run_search(model, search, 400, True, 1e-9, lambda *_: None)
    found = contributions(model, search.weights)
    theta = torch.zeros(2, dtype=torch.float64)
    theta = theta + 0.25 * search.weights[0] * (3 - theta)
    slopes = [float(2 * (theta[0] - 1) * (theta[0] - 3)), float((theta[1] - 2) * (theta[1] - 3))]
    assert slopes == pytest.approx([4.2021, 3.7062], abs=1e-4)
    mean = float(search.weights[1, 0]) * slopes[0] + float(search.weights[1, 1]) * slopes[1]
    deviation = math.sqrt(sum((slope - mean) ** 2 for slope in slopes))
    assert found.similarity[1] == pytest.approx(mean / deviation, rel=1e-6)
    assert found.test[0] == 3.0 and found.left_out is None


def test_contributions_are_products_of_gradients():
    problem, start = curved()
    model = model_of(problem, 6, 0.2, [4, 2], start)
    weights = torch.tensor([[0.5, 0.5, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4, 0, 0]], dtype=torch.float64)
    found = contributions(model, weights)

    def gradient(value, theta):
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(theta.values()))])

    theta = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    wanted = gradient(sum(part(theta) for part in problem.targets), theta)
    products = [float(gradient(problem.losses(theta, torch.tensor([row])).sum(), theta) @ wanted) for row in range(6)]
    mean = (products[0] + products[1]) / 2
    deviation = math.sqrt((products[0] - mean) ** 2 + (products[1] - mean) ** 2)
    assert found.similarity[0] == pytest.approx(mean / deviation, rel=1e-9)
    assert np.isnan(contributions(model, weights, every=2).similarity[1])
    harmful = [row for row in range(6) if products[row] <= 0]
    if harmful:
        assert found.left_out is not None and 0 <= found.left_out <= 1


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.5, 20.0, 0.3), (0.05, 1e4, 0.12), (0.2, 3.0, 1.1)])
def test_a_scaling_law_is_found_again(floor, scale, exponent):
    steps = np.unique(np.geomspace(10, 4000, 60).round())
    law = fit_scaling_law(steps, floor + (scale / steps) ** exponent)
    assert law.floor == pytest.approx(floor, rel=0.1)
    assert law.exponent == pytest.approx(exponent, rel=0.05) and law.scale == pytest.approx(scale, rel=0.2)
    assert law.residual < 1e-3
    given = fit_scaling_law(steps, floor + (scale / steps) ** exponent, floor=floor)
    assert (given.exponent, given.scale) == (pytest.approx(exponent, rel=1e-9), pytest.approx(scale, rel=1e-8))


def test_curves_that_no_law_fits_are_refused():
    with pytest.raises(InputError, match="3 losses are too few"):
        fit_scaling_law([1, 2, 3], [3, 2, 1])
    with pytest.raises(InputError, match="found 1 at first and 2 at last"):
        fit_scaling_law([1, 2, 3, 4], [1, 1, 1, 2])
