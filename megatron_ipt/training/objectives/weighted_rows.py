"""Rows that weigh differently in every step, as a policy says (:mod:`megatron_ipt.training.policy_file`).

The loss of a step is sum_n gamma[t, n] l_n over the rows of its global batch, divided by their weight; l_n is the mean
next-token loss over the tokens of row n that are predicted. With a global batch of all rows, which is what policies are
found for, that weight is 1. Rows are told by their number in the training data, so any layout follows the same policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.config import key
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.training.objectives.objective import (
    Batch,
    MetricSums,
    ModelOutputs,
    Objective,
    Step,
    TrainingSetup,
)
from megatron_ipt.training.policy_file import read_policy

if TYPE_CHECKING:
    import torch

SHARE = "share_of_step"
"""Key in the batch: what each position counts in its step, [batch, seq]."""


@dataclass
class PolicyOptions:
    policy: str = key("", "Folder with a policy, as `megatron-ipt policy` writes it: weights.npy and policy.json.")


class WeightedRows(Objective):
    """Weighted sum of the mean losses of rows; counts their weights."""

    Options = PolicyOptions
    in_validation = False

    def __init__(self, options: Any):
        super().__init__(options)
        if not options.policy:
            raise RecipeError("weighted_rows: options.policy is required: the folder of a policy")
        self._weights: Any = None
        self._digest = ""

    def setup(self, setup: TrainingSetup) -> None:
        """Reads the policy.

        Raises:
            InputError: it is damaged.
            RecipeError: it has another number of steps or rows than this training.
        """
        folder = Path(self.options.policy)
        weights = read_policy(folder)
        if setup.config.steps != len(weights):
            asked = "a length that is not given in steps" if setup.config.steps is None else f"{setup.config.steps}"
            raise RecipeError(
                f"{folder}: is a policy for {len(weights)} steps, but this training has {asked}; set "
                f"training.steps={len(weights)}"
            )
        if setup.rows != weights.shape[1]:
            raise RecipeError(
                f"{folder}: is a policy for {weights.shape[1]} rows, but the training data have {setup.rows} rows with "
                "a mask; use the data that it was found for"
            )
        self._weights = weights
        self._digest = hashlib.blake2b(weights.data, digest_size=16).hexdigest()

    def state_dict(self) -> Mapping[str, Any]:
        return {"policy": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises StageError if the policy has changed since the run began."""
        if state.get("policy") != self._digest:
            raise StageError(
                f"{self.options.policy}: is another policy than the one that this training began with; restore it, or "
                "begin again with --overwrite"
            )

    def before_step(self, step: Step, batches: list[Batch]) -> list[Batch]:
        import torch

        row_weights = torch.from_numpy(self._weights[step.number - 1].copy())
        for batch in batches:
            if "row" not in batch:
                raise StageError(
                    "weighted_rows: the batch has no rows: a policy needs training data with a mask, as the tuning "
                    "stage writes them"
                )
            rows = batch["row"].cpu()
            # Padding samples are row -1.
            shares = torch.where(rows >= 0, row_weights[rows.clamp_min(0)], 0.0) / batch["row_tokens"].cpu().clamp_min(
                1
            )
            batch[SHARE] = shares.float().to(batch["loss_mask"].device)
        return batches

    def count(self, batch: Batch) -> torch.Tensor:
        return (batch[SHARE] * batch["loss_mask"]).sum()

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        assert outputs.token_losses is not None
        return (outputs.token_losses.float() * batch[SHARE] * batch["loss_mask"]).sum(), {}
