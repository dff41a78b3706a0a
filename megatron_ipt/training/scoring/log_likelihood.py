"""Log-probabilities of given tokens, without the logits of all positions ever being in memory at once.

The output layer is applied to a bounded number of positions at a time, and only to those that count: padding and masked
tokens cost it nothing. Softmax is computed in fp32. Under tensor parallelism each rank holds part of the vocabulary,
reduces it to three numbers per position, and exchanges only those, in two all-reduces per micro-batch:

    log p(t) = z_t - m - log(sum_v exp(z_v - m)),    m = max_v z_v
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from megatron_ipt.training.cpu.fused import PART

_LOGITS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits that exist at once on a rank: 64 MiB in fp32, and 512 MiB on a GPU, whose products want more rows."""
_LOGITS_PER_PASS = {"cpu": PART, "cuda": 1 << 27}
"""Logits that softmax is computed of at once; on a CPU what stays in the cache."""


def log_probabilities(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    first_row: int,
    group: torch.distributed.ProcessGroup,
) -> torch.Tensor:
    """Log-probability of each label, in nats.

    Args:
        hidden: output of the last layer, [positions, hidden size].
        labels: token ids, [positions].
        logits_of: the output layer, [positions, hidden size] to [positions, vocab_size].
        vocab_size: rows of the output layer that this rank holds.
        first_row: token id of the first of them.
        group: ranks that hold the others.

    Returns:
        [positions] in fp32; NaN where the logits are NaN or infinite.
    """
    device = hidden.device.type
    at_once = max(1, _LOGITS_AT_ONCE[device] // vocab_size)
    per_pass = max(1, _LOGITS_PER_PASS[device] // vocab_size)
    found = [
        _terms(logits, rows)
        for part, targets in zip(hidden.split(at_once), (labels - first_row).split(at_once))
        for logits, rows in zip(logits_of(part).split(per_pass), targets.split(per_pass))
    ]
    largest, exponentials, chosen = (torch.cat(terms) for terms in zip(*found))
    if group.size() > 1:
        own = largest.clone()
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=group)
        sums = torch.stack([exponentials * (own - largest).exp(), chosen])
        torch.distributed.all_reduce(sums, group=group)
        exponentials, chosen = sums
    return chosen - largest - exponentials.log()


def _terms(logits: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of ``logits`` [positions, rows held here]: the maximum, the sum of exponentials relative to it, and the logit in
    row ``rows`` [positions], which is 0 where that row is on another rank."""
    wide = logits.float()
    is_here = (rows >= 0) & (rows < wide.size(1))
    chosen = wide.gather(1, rows.clamp(0, wide.size(1) - 1).unsqueeze(1)).squeeze(1)
    chosen = torch.where(is_here, chosen, torch.zeros_like(chosen))
    # A rank may hold nothing but padding, whose logits are minus infinity.
    largest = wide.amax(1).clamp(min=torch.finfo(torch.float32).min)
    exponentials = (wide - largest.unsqueeze(1)).exp_().sum(1)
    return largest, exponentials, chosen
