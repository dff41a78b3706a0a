"""Area, gradient and search on problems of which the answer is known."""

from __future__ import annotations

import pytest
import torch

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.research.learning_law.policy import Search, gradient, optimality, run_search, trajectory, uniform
from megatron_ipt.selection.pds.simplex import project
from tests.research.learning_law.toys import INTERIOR, curved, interior, model_of, quadratic
from tests.selection.pds.small_problems import QUADRATIC

STEPS = [[0.3224534712, 0, 0.6319491235], [0.1254969218, -0.0059186605, 0.4131576667],
         [0.0227188045, -0.0054660988, 0.2085869259]]  # fmt: skip


def test_uniform_rows_on_the_quadratic_problem():
    found = gradient(quadratic(), uniform(3, 3))
    assert found.area == pytest.approx(1.4257303874, abs=5e-11)
    assert found.gains.flatten().tolist() == pytest.approx([gain / 3 for row in STEPS for gain in row], abs=5e-11)
    assert found.desired[0] == pytest.approx(1.25)


def test_uniform_rows_of_the_interior_problem():
    assert gradient(interior(), uniform(2, 2)).area == pytest.approx(46203 / 16384, rel=1e-14)


def random_policy(steps, examples, seed=0):
    raw = torch.rand(steps, examples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return raw / raw.sum(1, keepdim=True)


def area_by_autograd(problem, start, weights, learning_rate):
    """A plain training loop through which autograd can go."""
    theta = dict(start) if isinstance(start, dict) else start
    examples = torch.arange(weights.shape[1])
    total = sum(part(theta) for part in problem.targets)
    for row in weights:
        loss = (row * problem.losses(theta, examples)).sum()
        if isinstance(theta, dict):
            names = list(theta)
            gradients = torch.autograd.grad(loss, [theta[name] for name in names], create_graph=True)
            theta = {name: theta[name] - learning_rate * part for name, part in zip(names, gradients)}
        else:
            (part,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - learning_rate * part
        total = total + sum(part(theta) for part in problem.targets)
    return total / len(weights)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("micro_batches", [[6], [2, 1, 3]])
def test_the_gradient_is_that_of_autograd_through_the_run(steps, micro_batches):
    problem, start = curved()
    weights = random_policy(steps, 6).requires_grad_()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    area = area_by_autograd(problem, leaves, weights, 0.2)
    (expected,) = torch.autograd.grad(area, weights)
    found = gradient(model_of(problem, 6, 0.2, micro_batches, start), weights.detach())
    assert found.area == pytest.approx(area.item(), abs=1e-12)
    assert (found.gains + expected).abs().max() < 1e-10
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("keep_every", [1, 2, 3, 7])
def test_what_is_kept_does_not_change_a_bit(keep_every):
    problem, start = curved()
    model = model_of(problem, 6, 0.2, [4, 2], start)
    stored, again = (gradient(model, random_policy(7, 6), keep) for keep in (1, keep_every))
    assert torch.equal(stored.gains, again.gains) and stored.area == again.area
    assert torch.equal(stored.desired, again.desired)


def test_the_trajectory_is_that_of_the_gradient():
    problem, start = curved()
    model = model_of(problem, 6, 0.2, [4, 2], start)
    weights = random_policy(5, 6)
    values = [float(sum(part(theta) for part in problem.targets)) for theta in trajectory(model, weights)]
    assert values == pytest.approx(gradient(model, weights).desired.tolist(), abs=1e-14)


def search(model, steps, length, epochs=400, tolerance=1e-12, adapt=True, seen=None):
    state = Search(uniform(steps, model.examples), length)
    best = run_search(model, state, epochs, adapt, tolerance, lambda at, _: seen is None or seen.append(at.epoch))
    return state, best


def test_the_optimum_at_a_corner_is_found():
    """All weight on the third row, in every step: no other row gains as much there."""
    state, best = search(quadratic(), 3, 0.1)
    assert best.area == pytest.approx(1.2191186667, abs=5e-11)
    assert state.weights.tolist() == [[0, 0, 1]] * 3
    found = optimality(state.weights, best.gains)
    assert found.gap <= 1e-12 * best.area and (found.spread, found.excess) == (0, 0)


def test_the_optimum_inside_is_found():
    state, best = search(interior(), 2, 0.1)
    assert best.area == pytest.approx(2.7724586654, abs=5e-11)
    expected = [0.3186926, 0.6813074, 0.3814538, 0.6185462]
    assert state.weights.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert best.gains[0].tolist() == pytest.approx([0.9084027] * 2, abs=1e-6)
    assert best.gains[1].tolist() == pytest.approx([0.3435239] * 2, abs=1e-6)
    assert optimality(state.weights, best.gains).gap < 1e-11
    assert state.history[-1]["gap"] <= 1e-12 * best.area < state.history[-2]["gap"]


def test_the_gap_bounds_what_is_left_to_gain():
    """The quadratic problem is convex in the weights of its last step: at any point, the gap says how much at most."""
    model = quadratic()
    for seed in range(5):
        weights = random_policy(1, 3, seed)
        found = gradient(model, weights)
        corner = min(gradient(model, row[None]).area for row in torch.eye(3, dtype=torch.float64))
        gap = optimality(weights, found.gains).gap
        assert gap >= found.area - corner - 1e-12 and gap > 0


def test_a_constant_step_is_the_projected_gradient_of_the_paper():
    model = interior()
    state, _ = search(model, 2, 0.05, epochs=3, adapt=False)
    weights = uniform(2, 2)
    for _ in range(3):
        leaf = weights.clone().requires_grad_()
        summed = 2 * area_by_autograd(INTERIOR, torch.zeros(2, dtype=torch.float64, requires_grad=True), leaf, 0.25)
        (slope,) = torch.autograd.grad(summed, leaf)
        moved = weights - 0.05 * slope
        # Of two entries, the projection has a formula.
        first = ((moved[:, 0] - moved[:, 1] + 1) / 2).clamp(0, 1)
        weights = torch.stack([first, 1 - first], 1)
    assert (state.weights - weights).abs().max() < 1e-13
    assert [entry["accepted"] for entry in state.history] == [1, 1, 1, 1]


def test_a_step_that_is_too_long_is_taken_back():
    state, best = search(interior(), 2, 1e6, epochs=40)
    assert not all(entry["accepted"] for entry in state.history)
    areas = [entry["area"] for entry in state.history]
    assert areas == sorted(areas, reverse=True) and best.area < 2.7725


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_continued_search_is_the_same_search(cut):
    problem, start = curved()
    model = model_of(problem, 6, 0.2, None, start)
    whole, _ = search(model, 4, 0.5, epochs=8, tolerance=0)
    state, _ = search(model, 4, 0.5, epochs=cut, tolerance=0)
    seen = []
    run_search(model, state, 8, True, 0, lambda at, _: seen.append(at.epoch))
    assert torch.equal(state.weights, whole.weights) and state.history == whole.history
    assert seen == list(range(cut + 1, 9))


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"a policy of shape \[2, 4\] does not fit 3 training examples"):
        gradient(quadratic(), uniform(2, 4))
    with pytest.raises(InputError, match=r"step 1: the weights add up to 0\.5"):
        gradient(quadratic(), torch.tensor([[1.0, 0, 0], [0.5, 0, 0]], dtype=torch.float64))
    with pytest.raises(InputError, match="the weight of row 1 is -1"):
        gradient(quadratic(), torch.tensor([[2.0, -1, 0]], dtype=torch.float64))
    with pytest.raises(StageError):
        gradient(model_of(QUADRATIC, 3, 1e200), uniform(4, 3))


def test_projection_worked_by_hand():
    found = project(torch.tensor([[0.5, 0.4, -0.3, 0.9]]))
    assert found[0].tolist() == pytest.approx([7 / 30, 4 / 30, 0, 19 / 30], abs=1e-7)
    assert found[0, 2] == 0


def test_projection_is_the_nearest_point():
    """Against a search for the threshold by bisection."""
    draws = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 7, generator=draws, dtype=torch.float64) * torch.logspace(-3, 3, 40)[:, None].double()
    low, high = rows.min(1).values - 1, rows.max(1).values
    for _ in range(200):
        middle = (low + high) / 2
        above = (rows - middle[:, None]).clamp_min(0).sum(1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    expected = (rows - low[:, None]).clamp_min(0)
    found = project(rows)
    assert (found - expected).abs().max() < 1e-10
    assert (found.sum(1) - 1).abs().max() < 1e-12 and bool((found >= 0).all())
    assert torch.equal(project(uniform(3, 7)).argmax(1), torch.zeros(3, dtype=torch.int64))
    assert project(torch.tensor([[3.0]])).tolist() == [[1.0]]
