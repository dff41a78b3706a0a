"""Log-probabilities as a tensor, for what needs each of them; :mod:`.compute` does not make one."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.training.objectives.divergence.compute import PART_ON_GPU, log_normalizers, log_probabilities
from megatron_ipt.training.objectives.divergence.shard import Shard, rows_of
from megatron_ipt.training.objectives.vocabulary import row_parts


def log_softmax(logits: torch.Tensor, vocabulary: int, group: Any = None, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of the columns on this rank, [..., columns] in fp32 or fp64; minus infinity for padding.

    The gradient of a log-probability reaches all logits, so the backward pass adds up one number for each position over
    the ranks. Arguments as of :func:`~megatron_ipt.training.objectives.divergence.compute.divergence`.
    """
    result: torch.Tensor = _LogSoftmax.apply(logits, Shard.of(logits, vocabulary, group), temperature)
    return result


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: torch.Tensor, shard: Shard, temperature: float) -> torch.Tensor:
        rows = rows_of(logits)
        (normalizer,) = log_normalizers((rows,), shard, temperature)
        result = torch.full(logits.shape, -torch.inf, dtype=normalizer.dtype, device=logits.device)
        for part, of_part, to in row_parts(rows, normalizer, rows_of(result), on_gpu=PART_ON_GPU):
            to[:, : shard.size] = log_probabilities(part, of_part, shard, temperature)
        context.save_for_backward(result)
        context.how = shard, temperature, logits.dtype
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (result,) = context.saved_tensors
        shard, temperature, dtype = context.how
        gradients = torch.zeros_like(result, dtype=dtype)
        along = rows_of(gradient)[:, : shard.size]
        totals = shard.sum(along.sum(-1))
        for part, to, of_part, total in row_parts(
            rows_of(result), rows_of(gradients), along, totals, on_gpu=PART_ON_GPU
        ):
            probabilities = part[:, : shard.size].exp()
            to[:, : shard.size] = (of_part - probabilities.mul_(total.unsqueeze(-1))).div_(temperature)
        return gradients, None, None
