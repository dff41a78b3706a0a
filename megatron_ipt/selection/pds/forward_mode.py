"""Exact derivatives by torch.func: forward mode over the losses, and forward mode over their gradient.

The slopes of all losses of a batch along one direction are a single Jacobian-vector product of the vector of losses, so
no gradient of a single example is ever formed. The same pass through the gradient gives the Hessian times the
direction, at about the cost of two gradients. Attention must be one that has forward mode: transformers' ``eager``, not
fused kernels. A loss whose backward is written without a graph, such as Megatron-Core's vocabulary-parallel
cross-entropy, gives a wrong Hessian without an error: use ``central_differences`` there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.vectors import Theta, detached, plus, tensors, zeros_like

if TYPE_CHECKING:
    import torch


class ForwardMode:
    """A :class:`~megatron_ipt.selection.pds.problem.Calculus`."""

    def __init__(self, problem: Problem):
        self._problem = problem

    def gradient(self, theta: Theta, batch: Any, weights: torch.Tensor) -> tuple[torch.Tensor, Theta]:
        gradient, losses = self._gradient(detached(theta), batch, weights)
        return losses.detach(), detached(gradient)

    def slopes(self, theta: Theta, batch: Any, direction: Theta) -> torch.Tensor:
        import torch

        _, slopes = torch.func.jvp(
            lambda at: self._problem.losses(at, batch), (detached(theta),), (detached(direction),)
        )
        return slopes.detach()

    def slopes_and_curvature(
        self, theta: Theta, batch: Any, weights: torch.Tensor, direction: Theta
    ) -> tuple[torch.Tensor, Theta]:
        import torch

        _, (curvature, slopes) = torch.func.jvp(
            lambda at: self._gradient(at, batch, weights), (detached(theta),), (detached(direction),)
        )
        return slopes.detach(), detached(curvature)

    def target(self, theta: Theta) -> tuple[torch.Tensor, Theta]:
        import torch

        theta = detached(theta)
        gradient = zeros_like(theta)
        value = tensors(theta)[0].new_zeros((), dtype=torch.float64)
        for part in self._problem.targets:
            of_part, part_value = torch.func.grad_and_value(part)(theta)
            gradient = plus(gradient, 1.0, detached(of_part))
            value = value + part_value.detach().double()
        return value, gradient

    def _gradient(self, theta: Theta, batch: Any, weights: torch.Tensor) -> tuple[Theta, torch.Tensor]:
        import torch

        def weighted(at: Theta) -> tuple[torch.Tensor, torch.Tensor]:
            losses = self._problem.losses(at, batch)
            return (losses * weights.to(losses)).sum(), losses

        return torch.func.grad(weighted, has_aux=True)(theta)
