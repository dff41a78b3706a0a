"""Losses of rows of tokens under a language model whose parameters are given: what a problem of PDS is made of.

The loss of a row is the mean over the tokens that it is to predict, so that rows of all lengths have the same weight.
Rows are padded on the right, where causal attention never sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenRow:
    """A row.

    Attributes:
        ids: int64 [tokens].
        mask: whether each token is predicted, bool [tokens]; never the first one, whatever stands there. None for all
            others.
    """

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_] | None = None


class TokenBatch(NamedTuple):
    """Rows of a micro-batch, padded to the longest.

    Attributes:
        tokens: int64 [rows, seq].
        labels: the token after each, int64 [rows, seq].
        mask: 1 where the label counts, fp32 [rows, seq].
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor


TokenLosses = Callable[[Theta, TokenBatch], "torch.Tensor"]
"""Losses of single tokens, [rows, seq], in nats; those outside the mask do not matter."""


def token_batches(rows: Sequence[TokenRow], rows_per_batch: int, device: Any = None) -> list[TokenBatch]:
    """``rows`` in their order, so many at a time.

    Raises:
        InputError: a row has nothing to predict, or a mask of another length.
    """
    return [
        _batch(rows[start : start + rows_per_batch], start, device) for start in range(0, len(rows), rows_per_batch)
    ]


def _batch(rows: Sequence[TokenRow], first: int, device: Any) -> TokenBatch:
    import torch

    width = max(len(row.ids) for row in rows) - 1
    tokens = np.zeros((len(rows), max(width, 0)), np.int64)
    labels, mask = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
    for place, row in enumerate(rows):
        if row.mask is not None and len(row.mask) != len(row.ids):
            raise InputError(f"row {first + place} has {len(row.ids)} tokens and a mask of {len(row.mask)}")
        length = len(row.ids) - 1
        predicted = np.ones(max(length, 0), bool) if row.mask is None else row.mask[1:]
        if not predicted.any():
            raise InputError(f"row {first + place} of {len(row.ids)} tokens has none to predict; leave it out")
        tokens[place, :length] = row.ids[:-1]
        labels[place, :length] = row.ids[1:]
        mask[place, :length] = predicted
    return TokenBatch(*(torch.from_numpy(array).to(device) for array in (tokens, labels, mask)))


def row_losses(token_losses: TokenLosses) -> Callable[[Theta, TokenBatch], torch.Tensor]:
    """The mean loss of each row over the tokens in its mask, [rows], in nats."""

    def losses(theta: Theta, batch: TokenBatch) -> torch.Tensor:
        of_tokens = token_losses(theta, batch)
        mask = batch.mask.to(of_tokens)
        return (of_tokens * mask).sum(1) / mask.sum(1)

    return losses


def token_losses_of(model: torch.nn.Module) -> TokenLosses:
    """Losses under a causal language model of transformers, as a function of its parameters by name.

    With ``forward_mode``, load it with ``attn_implementation="eager"``: fused attention has no forward mode. Tied
    weights are one parameter, as in ``dict(model.named_parameters())``. Switches the model to evaluation, since with
    dropout no two passes agree.
    """
    import torch

    model.eval()

    def losses(theta: Theta, batch: TokenBatch) -> torch.Tensor:
        logits = torch.func.functional_call(model, theta, (batch.tokens,), {"use_cache": False}).logits
        return -logits.log_softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)

    return losses
