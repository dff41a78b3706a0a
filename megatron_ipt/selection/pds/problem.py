"""What is solved, and the derivatives that the solver needs: two ways of getting them fit one protocol.

A :class:`Problem` knows losses only. A :class:`Calculus` differentiates them: ``forward_mode`` exactly, in one pass of
torch.func; ``central_differences`` approximately, for models that have neither forward mode nor double backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Problem:
    """Losses of examples, and the objective J.

    Attributes:
        losses: ``(theta, batch) -> [examples]``, in nats; what a batch is, only this function knows.
        targets: scalar functions of theta whose sum, over all ranks, is J. One would do; several keep the memory at
            that of the largest, since each is differentiated alone.
    """

    losses: Callable[[Theta, Any], torch.Tensor]
    targets: Sequence[Callable[[Theta], torch.Tensor]]


class Calculus(Protocol):
    """Derivatives of a problem on this rank's examples; nothing here is summed over ranks, everything is detached."""

    def gradient(self, theta: Theta, batch: Any, weights: torch.Tensor) -> tuple[torch.Tensor, Theta]:
        """The losses l_n [examples], and the gradient of sum_n weights_n l_n."""

    def slopes(self, theta: Theta, batch: Any, direction: Theta) -> torch.Tensor:
        """direction . grad l_n [examples]: how fast each loss grows along ``direction``."""

    def slopes_and_curvature(
        self, theta: Theta, batch: Any, weights: torch.Tensor, direction: Theta
    ) -> tuple[torch.Tensor, Theta]:
        """:meth:`slopes`, and the Hessian of sum_n weights_n l_n times ``direction``, from one pass over the batch."""

    def target(self, theta: Theta) -> tuple[torch.Tensor, Theta]:
        """This rank's part of J, a scalar, and its gradient."""
