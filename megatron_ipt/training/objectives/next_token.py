"""Next-token prediction: the cross-entropy of every label in the loss mask.

The mask leaves out padding, and for rows of the tuning stage everything but the tokens that are to be learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron_ipt.training.objectives.objective import Batch, MetricSums, ModelOutputs, Objective

if TYPE_CHECKING:
    import torch


class NextToken(Objective):
    """Sum of the token losses in nats; counts the tokens of the loss mask."""

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        assert outputs.token_losses is not None
        return (outputs.token_losses.float() * batch["loss_mask"]).sum(), {}
