"""Losses of rows: by hand, and under a model of transformers through a whole run."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_ipt.errors import InputError
from megatron_ipt.selection.pds.dynamics import Examples, solve
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import TokenRow, row_losses, token_batches, token_losses_of
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.target import mean_loss

ROWS = [TokenRow(np.array([4, 1, 2])), TokenRow(np.array([3, 3, 0, 5, 6]), np.array([True, False, True, False, True]))]


def test_rows_are_padded_on_the_right() -> None:
    (batch,) = token_batches(ROWS, 2)
    assert batch.tokens.tolist() == [[4, 1, 0, 0], [3, 3, 0, 5]]
    assert batch.labels.tolist() == [[1, 2, 0, 0], [3, 0, 5, 6]]
    # Nothing comes before the first token of a row, so that its own place in the mask means nothing.
    assert batch.mask.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert [len(part.tokens) for part in token_batches(ROWS * 3, 4)] == [4, 2]
    assert token_batches([], 4) == []


def test_loss_of_a_row_is_the_mean_of_what_it_predicts() -> None:
    (batch,) = token_batches(ROWS, 2)
    of_tokens = torch.tensor([[1.0, 2.0, 100.0, 100.0], [100.0, 5.0, 100.0, 8.0]])
    assert row_losses(lambda theta, batch: of_tokens)(torch.zeros(1), batch).tolist() == [1.5, 6.5]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TokenRow(np.array([7])), "row 2 of 1 tokens has none to predict"),
        (TokenRow(np.array([], np.int64)), "row 2 of 0 tokens has none to predict"),
        (TokenRow(np.array([7, 8]), np.array([True, False])), "row 2 of 2 tokens has none to predict"),
        (TokenRow(np.array([7, 8]), np.array([True])), "row 2 has 2 tokens and a mask of 1"),
    ],
)
def test_rows_that_have_no_loss(row: TokenRow, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        token_batches([*ROWS, row], 2)


def test_llama_against_autograd_through_the_run() -> None:
    """To 1e-6, since the norms of transformers compute in single precision whatever the model's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).double()
    theta = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids = np.random.default_rng(0).integers(0, 11, (9, 7))
    batches = token_batches([TokenRow(row) for row in ids[:6]], 4)
    (target,) = token_batches([TokenRow(row) for row in ids[6:]], 3)
    losses = row_losses(token_losses_of(model))

    # What the model says by itself: without labels shifted by hand, and without functional calls.
    with torch.no_grad():
        own = model(torch.from_numpy(ids[6:]), labels=torch.from_numpy(ids[6:])).loss
        assert float(losses(theta, target).mean()) == pytest.approx(float(own), rel=1e-6)
        assert float(own) > math.log(11) / 2

    numbers = torch.arange(6).split(4)
    steps = [[Examples(batch, rows) for batch, rows in zip(batches, numbers)]] * 3
    problem = Problem(losses, mean_loss(losses, [target]))
    found = solve(ForwardMode(problem), theta, steps, learning_rate=0.5, rows=6)

    gamma = torch.full((6,), 1 / 6, dtype=torch.float64, requires_grad=True)
    at = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(3):
        weighted = torch.cat([losses(at, batch) for batch in batches]) @ gamma
        gradients = torch.autograd.grad(weighted, list(at.values()), create_graph=True)
        at = {name: tensor - 0.5 * gradient for (name, tensor), gradient in zip(at.items(), gradients)}
        total = total + losses(at, target).mean()
    (expected,) = torch.autograd.grad(total, gamma)
    assert float((found.scores + expected).abs().max() / expected.abs().max()) < 1e-6
