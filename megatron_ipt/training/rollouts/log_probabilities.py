"""Log-probabilities of given tokens under a teacher whose vocabulary tensor parallelism may split."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.training.objectives.divergence.compute import log_normalizers
from megatron_ipt.training.objectives.divergence.shard import Shard


@torch.no_grad()
def log_probabilities_of(ids: torch.Tensor, logits: torch.Tensor, vocabulary: int, group: Any = None) -> torch.Tensor:
    """In nats, [positions], without gradient.

    Args:
        ids: [positions].
        logits: of this rank's columns, [positions, columns].
        vocabulary: number of entries without padding.
        group: ranks that split the vocabulary; None if there is only this one.
    """
    shard = Shard.of(logits, vocabulary, group)
    (normalizer,) = log_normalizers((logits,), shard, 1.0)
    here = (ids >= shard.first) & (ids < shard.first + shard.size)
    column = torch.where(here, ids - shard.first, 0)
    chosen = logits.gather(-1, column.unsqueeze(-1)).squeeze(-1).to(normalizer.dtype)
    return shard.sum(chosen.masked_fill(~here, 0)) - normalizer.sum(-1)
