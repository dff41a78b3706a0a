"""PDS scores under a Megatron-Core model, by central differences: ``solve_megatron.py CHECKPOINT``, prints JSON.

In a process of its own, since without a GPU the model changes torch for the rest of its process.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from megatron_ipt.selection.pds.central_differences import CentralDifferences
from megatron_ipt.selection.pds.dynamics import Examples, solve
from megatron_ipt.selection.pds.language_model import TokenBatch, TokenLosses, TokenRow, row_losses, token_batches
from megatron_ipt.selection.pds.problem import Calculus, Problem
from megatron_ipt.selection.pds.target import mean_loss
from megatron_ipt.selection.pds.vectors import Theta
from megatron_ipt.training.checkpoint_model import CheckpointModel

ROWS, STEPS, LEARNING_RATE = 12, 4, 0.3


def problem(token_losses: TokenLosses) -> tuple[Problem, list[Examples]]:
    """Half of the rows count in threes, as the target rows do; the others are noise."""
    generator = np.random.default_rng(0)
    counting = [TokenRow((start + 3 * np.arange(13)) % 50) for start in generator.integers(0, 50, 10)]
    noise = [TokenRow(ids) for ids in generator.integers(0, 50, (ROWS // 2, 11))]
    batches = token_batches([*counting[: ROWS // 2], *noise], 5)
    losses = row_losses(token_losses)
    examples = [Examples(batch, rows) for batch, rows in zip(batches, torch.arange(ROWS).split(5))]
    return Problem(losses, mean_loss(losses, token_batches(counting[ROWS // 2 :], 4))), examples


def scores(calculus: Calculus, theta: Theta, examples: list[Examples]) -> list[float]:
    found = solve(calculus, theta, [examples] * STEPS, learning_rate=LEARNING_RATE, rows=ROWS)
    return found.scores.tolist()  # type: ignore[no-any-return]


def main(checkpoint: str) -> None:
    with CheckpointModel(checkpoint) as model:
        module = model.module

        def token_losses(theta: Theta, batch: TokenBatch) -> torch.Tensor:
            inputs = batch.tokens, None, None
            losses: torch.Tensor = torch.func.functional_call(module, theta, inputs, {"labels": batch.labels})
            return losses

        theta = {name: parameter.detach() for name, parameter in module.named_parameters()}
        made, examples = problem(token_losses)
        print(json.dumps(scores(CentralDifferences(made), theta, examples)))


if __name__ == "__main__":
    main(sys.argv[1])
