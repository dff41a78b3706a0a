"""Both ways of getting derivatives: against autograd, row by row, and each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from megatron_ipt.errors import RecipeError
from megatron_ipt.selection.pds.central_differences import CentralDifferences
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import token_batches
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.vectors import norm, plus, tensors
from tests.selection.pds import twin
from tests.selection.pds.small_problems import QUADRATIC, origin

BATCH = token_batches(twin.training_rows()[:6], 6)[0]
WEIGHTS = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
DIRECTION = {name: 7 * tensor for name, tensor in twin.parameters(seed=1).items()}


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.double().flatten() for part in parts])


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """Losses, gradient, slopes and curvature by reverse mode alone, a gradient for each row and a double backward."""
    theta = {name: tensor.requires_grad_() for name, tensor in twin.parameters().items()}
    direction = flat(list(DIRECTION.values()))
    losses = twin.losses(theta, BATCH)
    by_row = [flat(torch.autograd.grad(loss, list(theta.values()), retain_graph=True)) for loss in losses]  # type: ignore[arg-type]
    gradient = torch.autograd.grad(losses @ WEIGHTS, list(theta.values()), create_graph=True)
    along = sum((part * DIRECTION[name]).sum() for name, part in zip(theta, gradient))
    curvature = torch.autograd.grad(along, list(theta.values()))
    return {
        "losses": losses.detach(),
        "gradient": flat(list(gradient)).detach(),
        "slopes": torch.stack(by_row) @ direction,
        "curvature": flat(list(curvature)),
    }


def derivatives(calculus: Callable[[Problem], object], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    made: ForwardMode | CentralDifferences = calculus(twin.problem())  # type: ignore[assignment]
    theta = twin.parameters(dtype=dtype)
    direction = {name: tensor.to(dtype) for name, tensor in DIRECTION.items()}
    losses, gradient = made.gradient(theta, BATCH, WEIGHTS)
    slopes, curvature = made.slopes_and_curvature(theta, BATCH, WEIGHTS, direction)
    alone = made.slopes(theta, BATCH, direction)
    assert error(alone, slopes.double()) < 1e-3
    assert not any(tensor.requires_grad for tensor in (losses, slopes, *tensors(gradient), *tensors(curvature)))
    return {
        "losses": losses,
        "gradient": flat(tensors(gradient)),
        "slopes": alone,
        "curvature": flat(tensors(curvature)),
    }


def test_forward_mode_is_exact(expected: dict[str, torch.Tensor]) -> None:
    found = derivatives(ForwardMode, torch.float64)
    assert max(error(found[name], expected[name]) for name in expected) < 1e-14


def test_central_differences_in_single_precision(expected: dict[str, torch.Tensor]) -> None:
    found = derivatives(CentralDifferences, torch.float32)
    assert error(found["losses"], expected["losses"]) < 1e-6
    assert error(found["gradient"], expected["gradient"]) < 1e-6
    assert error(found["slopes"], expected["slopes"]) < 6e-4
    assert error(found["curvature"], expected["curvature"]) < 2e-4


def test_central_differences_converge_with_the_square_of_the_step(expected: dict[str, torch.Tensor]) -> None:
    errors = [
        [error(found[name], expected[name]) for name in ("slopes", "curvature")]
        for found in (
            derivatives(lambda problem, step=step: CentralDifferences(problem, step), torch.float64)  # type: ignore[misc]
            for step in (1e-2, 1e-3)
        )
    ]
    for coarse, fine in zip(*errors):
        assert coarse / fine == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("calculus", [ForwardMode, CentralDifferences])
def test_target_is_the_sum_of_its_parts(calculus: Callable[[Problem], ForwardMode]) -> None:
    problem = twin.problem()
    assert len(problem.targets) == 4
    theta = {name: tensor.requires_grad_() for name, tensor in twin.parameters().items()}
    value = twin.losses(theta, token_batches(twin.counting_rows(twin.TARGET_ROWS, 3), twin.TARGET_ROWS)[0]).mean()
    gradient = flat(list(torch.autograd.grad(value, list(theta.values()))))
    found, of_target = calculus(problem).target(theta)
    assert float(found) == pytest.approx(value.item(), rel=1e-14)
    assert error(flat(tensors(of_target)), gradient) < 1e-14


def test_central_differences_at_the_origin_and_along_nothing() -> None:
    """Any step is exact for a quadratic loss; at the origin and along nothing, the relative step has no size."""
    made = CentralDifferences(QUADRATIC)
    everything = torch.arange(3)
    slopes = made.slopes(origin(), everything, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([-1, 0, -3], abs=1e-12)
    slopes, curvature = made.slopes_and_curvature(origin() + 1, everything, torch.ones(3), origin())
    assert slopes.tolist() == [0, 0, 0] and curvature.tolist() == [0, 0]
    with pytest.raises(RecipeError, match="found 0"):
        CentralDifferences(QUADRATIC, 0)


def test_vectors_are_tensors_or_dicts_of_them() -> None:
    vector = {"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}
    assert norm(vector) == 5 and norm(vector["b"]) == 4
    moved = plus(vector, 2, vector)
    assert isinstance(moved, dict) and moved["b"].tolist() == [[0, 12]] and vector["b"].tolist() == [[0, 4]]
