"""Sums over a vocabulary that tensor parallelism splits, for objectives that read logits.

Megatron-Core's cross-entropy writes over its logits: the softmax in the forward pass where they are fp32, and the one
for CPU the gradients in the backward pass. What is here leaves them as they are, so several terms can read the same.
Logits are read in parts of bounded size, so no second tensor of their size is made in the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

from megatron_ipt.training.cpu.fused import PART, CrossEntropyFunction

_PART_ON_GPU = 1 << 24
"""Numbers at a time: 64 MiB of fp32, enough to keep a GPU busy."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of ``labels`` [batch, seq], in nats and fp32, without a change to the logits.

    Args:
        logits: this rank's part of the vocabulary, [batch, seq, vocab / tp].
    """
    if not logits.is_cuda and parallel_state.get_tensor_model_parallel_world_size() == 1:
        losses: torch.Tensor = CrossEntropyFunction.apply(logits.contiguous(), labels, True)
        return losses
    # From other precisions it makes an fp32 copy by itself.
    own = logits.clone() if logits.dtype is torch.float32 else logits
    apart: torch.Tensor = vocab_parallel_cross_entropy(own, labels)
    return apart


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of ``exp(logits)`` over the whole vocabulary, fp32, the same on all tensor-parallel ranks.

    Args:
        logits: this rank's part of the vocabulary, [..., vocab / tp].

    Returns:
        [...]; its gradient, the softmax, is exactly 0 where a logit is minus infinity.
    """
    result: torch.Tensor = _LogSumExp.apply(logits)
    return result


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: torch.Tensor) -> torch.Tensor:
        group = parallel_state.get_tensor_model_parallel_group()
        rows = logits.flatten(0, -2)
        largest = rows.amax(-1).float()
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=group)
        sums = torch.empty_like(largest)
        for part, most, to in row_parts(rows, largest, sums):
            torch.sum((part.float() - most.unsqueeze(-1)).exp_(), -1, out=to)
        torch.distributed.all_reduce(sums, group=group)
        result = sums.log_().add_(largest).view(logits.shape[:-1])
        context.save_for_backward(logits, result)
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        logits, result = context.saved_tensors
        gradients = torch.empty_like(logits, memory_format=torch.contiguous_format)
        rows = (logits.flatten(0, -2), gradients.flatten(0, -2), result.flatten(), gradient.flatten())
        for part, to, logarithm, along in row_parts(*rows):
            to.copy_((part.float() - logarithm.unsqueeze(-1)).exp_().mul_(along.unsqueeze(-1)))
        return gradients


def row_parts(
    rows: torch.Tensor, *others: torch.Tensor, on_gpu: int = _PART_ON_GPU
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of ``rows`` [rows, vocab / tp], a bounded amount of numbers at a time, with those of ``others`` [rows, ...]
    for the same rows.

    Args:
        on_gpu: numbers at a time on a GPU; less where several tensors of that size are needed at once.
    """
    size = on_gpu if rows.is_cuda else PART
    return zip(*(each.split(max(1, size // rows.size(-1))) for each in (rows, *others)))
