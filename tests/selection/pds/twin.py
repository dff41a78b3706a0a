"""A language model of 2,752 parameters in fp64, whose every operation has all derivatives, and rows for it.

Half of the training rows count in steps of three, as the target rows do; the others are noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from megatron_ipt.selection.pds.dynamics import Examples
from megatron_ipt.selection.pds.language_model import TokenBatch, TokenRow, row_losses, token_batches
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.target import mean_loss
from megatron_ipt.selection.pds.vectors import Theta

VOCABULARY = WIDTH = 16
LENGTH = 9
TRAINING_ROWS, TARGET_ROWS = 64, 16
SHAPES = {
    "embedding": (VOCABULARY, WIDTH),
    "position": (LENGTH - 1, WIDTH),
    **{f"attention.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value", "output")},
    "mlp.in": (WIDTH, 2 * WIDTH),
    "mlp.out": (2 * WIDTH, WIDTH),
    **{f"norm{layer}.{name}": (WIDTH,) for layer in (1, 2) for name in ("weight", "bias")},
    "head": (WIDTH, VOCABULARY),
}


def parameters(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    return {
        name: (torch.ones_like(tensor) if name.startswith("norm") and name.endswith("weight") else tensor).to(dtype)
        for name, tensor in drawn.items()
    }


def token_losses(theta: Theta, batch: TokenBatch) -> torch.Tensor:
    assert isinstance(theta, dict)
    hidden = theta["embedding"][batch.tokens] + theta["position"][: batch.tokens.shape[1]]
    normed = _norm(hidden, theta, "norm1")
    query, key, value = (normed @ theta[f"attention.{name}"] for name in ("query", "key", "value"))
    scores = query @ key.transpose(-1, -2) / WIDTH**0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    hidden = hidden + scores.masked_fill(future, float("-inf")).softmax(-1) @ value @ theta["attention.output"]
    normed = _norm(hidden, theta, "norm2")
    hidden = hidden + torch.tanh(normed @ theta["mlp.in"]) @ theta["mlp.out"]
    logits = hidden @ theta["head"]
    return -logits.log_softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)


def _norm(hidden: torch.Tensor, theta: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = hidden - hidden.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * theta[f"{name}.weight"] + theta[f"{name}.bias"]


losses = row_losses(token_losses)


def counting_rows(number: int, seed: int, stride: int = 3) -> list[TokenRow]:
    starts = np.random.default_rng(seed).integers(0, VOCABULARY, number)
    return [TokenRow((start + stride * np.arange(LENGTH)) % VOCABULARY) for start in starts]


def noise_rows(number: int, seed: int) -> list[TokenRow]:
    return [TokenRow(ids) for ids in np.random.default_rng(seed).integers(0, VOCABULARY, (number, LENGTH))]


IS_NOISE = np.arange(TRAINING_ROWS) % 2 == 1


def training_rows(others: list[TokenRow] | None = None) -> list[TokenRow]:
    """Every second row is one of ``others``; noise by default."""
    half = TRAINING_ROWS // 2
    return [row for pair in zip(counting_rows(half, 1), others or noise_rows(half, 2)) for row in pair]


def problem(target: list[TokenRow] | None = None) -> Problem:
    """Its J is the mean loss on ``target``, in micro-batches of five."""
    rows = counting_rows(TARGET_ROWS, 3) if target is None else target
    return Problem(losses, mean_loss(losses, token_batches(rows, 5)))


def examples(rows_per_batch: int = TRAINING_ROWS, others: list[TokenRow] | None = None) -> list[Examples]:
    """All training rows, so many at a time."""
    batches = token_batches(training_rows(others), rows_per_batch)
    numbers = torch.arange(TRAINING_ROWS).split(rows_per_batch)
    return [Examples(batch, rows) for batch, rows in zip(batches, numbers)]


def unrolled_objective(
    problem: Problem, theta: Theta, steps: int, eta: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """J(theta_1) + ... + J(theta_T) as a function of the weights of all training rows: a plain training loop."""
    batch = token_batches(training_rows(), TRAINING_ROWS)[0]

    def objective(gamma: torch.Tensor) -> torch.Tensor:
        at, total = theta, torch.zeros((), dtype=torch.float64)
        for _ in range(steps):
            gradient = torch.func.grad(lambda moved: (gamma * losses(moved, batch)).sum())(at)
            at = {name: at[name] - eta * gradient[name] for name in at}
            total = total + torch.stack([part(at) for part in problem.targets]).sum()
        return total

    return objective
