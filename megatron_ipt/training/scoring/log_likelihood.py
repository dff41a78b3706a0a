"""Log-probabilities of given tokens, without the logits of all positions ever being in memory at once.

The output layer is applied to a bounded number of positions at a time, and only to those that count: padding and masked
tokens cost it nothing. Softmax is computed in fp32. Under tensor parallelism each rank holds part of the vocabulary,
reduces it to three numbers per position, and exchanges only those, in two all-reduces per micro-batch:

    log p(t) = z_t - m - log(sum_v exp(z_v - m)),    m = max_v z_v
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from megatron_ipt.training.objectives.vocabulary import row_parts

_LOGITS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits that exist at once on a rank: 64 MiB in fp32, and 512 MiB on a GPU, whose products want more rows."""


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
    at_once = max(1, _LOGITS_AT_ONCE[hidden.device.type] // vocab_size)
    parts = [
        _terms(logits_of(rows), targets)
        for rows, targets in zip(hidden.split(at_once), (labels - first_row).split(at_once))
    ]
    largest, exponentials, chosen = torch.cat(parts, 1)
    if group.size() > 1:
        own = largest.clone()
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=group)
        sums = torch.stack([exponentials * (own - largest).exp(), chosen])
        torch.distributed.all_reduce(sums, group=group)
        exponentials, chosen = sums
    return chosen - largest - exponentials.log()


def _terms(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What the log-probabilities of ``rows`` [positions] need of ``logits`` [positions, rows held here].

    Returns:
        [3, positions] in fp32: the maximum, the sum of exponentials relative to it, and the logit in that row, which is
        0 where the row is on another rank.
    """
    found = logits.new_empty(3, len(rows), dtype=torch.float32)
    for part, targets, to in row_parts(logits, rows, found.t()):
        wide = part.float()
        # A rank may hold nothing but padding, whose logits are minus infinity.
        largest = wide.amax(1).clamp(min=torch.finfo(torch.float32).min)
        is_here = (targets >= 0) & (targets < wide.size(1))
        chosen = wide.gather(1, targets.clamp(0, wide.size(1) - 1).unsqueeze(1)).squeeze(1)
        to[:, 0] = largest
        to[:, 1] = (wide - largest.unsqueeze(1)).exp_().sum(1)
        to[:, 2] = chosen.where(is_here, 0.0)
    return found
