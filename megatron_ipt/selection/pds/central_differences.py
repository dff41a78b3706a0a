"""Derivatives along a direction from losses and gradients at two points, for models with first derivatives only.

Megatron-Core's layers have no forward mode, and a double backward through its cross-entropy is wrong without an error.
What is needed here are only derivatives along one direction: (f(theta + e d) - f(theta - e d)) / 2e, where f is the
vector of losses or the gradient; slopes cost two forward passes. The error grows with the square of the step until
rounding takes over. A step with |e d| = 3e-3 |theta| leaves some 6e-4 of slopes and 2e-4 of Hessian-vector products in
fp32, but more where the loss is rougher: a step a third as long should hardly change the scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.vectors import Theta, combine, norm, plus, tensors, zeros_like

if TYPE_CHECKING:
    import torch

RELATIVE_STEP = 3e-3
"""|e d| / |theta|, for fp32."""


class CentralDifferences:
    """A :class:`~megatron_ipt.selection.pds.problem.Calculus`.

    Args:
        relative_step: length of the step as a share of the norm of the parameters; at the origin, its length.

    Raises:
        RecipeError: the step is not above zero.
    """

    def __init__(self, problem: Problem, relative_step: float = RELATIVE_STEP):
        if not relative_step > 0:
            raise RecipeError(f"relative step of central differences: found {relative_step}, must be above 0")
        self._problem = problem
        self._relative_step = relative_step

    def gradient(self, theta: Theta, batch: Any, weights: torch.Tensor) -> tuple[torch.Tensor, Theta]:
        import torch

        with torch.enable_grad():
            at = _leaves(theta)
            losses = self._problem.losses(at, batch)
            return losses.detach(), _gradient((losses * weights.to(losses)).sum(), at)

    def slopes(self, theta: Theta, batch: Any, direction: Theta) -> torch.Tensor:
        import torch

        step = self._step(theta, direction)
        with torch.no_grad():
            after = self._problem.losses(plus(theta, step, direction), batch)
            before = self._problem.losses(plus(theta, -step, direction), batch)
        return (after.double() - before.double()) / (2 * step)

    def slopes_and_curvature(
        self, theta: Theta, batch: Any, weights: torch.Tensor, direction: Theta
    ) -> tuple[torch.Tensor, Theta]:
        step = self._step(theta, direction)
        after, gradient_after = self.gradient(plus(theta, step, direction), batch, weights)
        before, gradient_before = self.gradient(plus(theta, -step, direction), batch, weights)
        curvature = combine(lambda a, b: (a - b) / (2 * step), gradient_after, gradient_before)
        return (after.double() - before.double()) / (2 * step), curvature

    def target(self, theta: Theta) -> tuple[torch.Tensor, Theta]:
        import torch

        gradient = zeros_like(theta)
        value = tensors(theta)[0].new_zeros((), dtype=torch.float64)
        for part in self._problem.targets:
            with torch.enable_grad():
                at = _leaves(theta)
                part_value = part(at)
                gradient = plus(gradient, 1.0, _gradient(part_value, at))
            value = value + part_value.detach().double()
        return value, gradient

    def _step(self, theta: Theta, direction: Theta) -> float:
        """The step e; along no direction at all, any step gives the right answer, zero."""
        return self._relative_step * (norm(theta) or 1.0) / (norm(direction) or 1.0)


def _leaves(theta: Theta) -> Theta:
    return combine(lambda tensor: tensor.detach().requires_grad_(), theta)


def _gradient(value: torch.Tensor, theta: Theta) -> Theta:
    import torch

    gradients = torch.autograd.grad(value, tensors(theta), materialize_grads=True)
    return dict(zip(theta, gradients)) if isinstance(theta, dict) else gradients[0]
