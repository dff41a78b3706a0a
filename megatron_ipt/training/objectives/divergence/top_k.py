"""The most probable entries of a teacher, the rest as one bucket, and forward KL to a student from no more than that.

What is left of the probability is one more outcome, so the student's mass outside the chosen entries counts: the result
is a lower bound of forward KL, and 0 only if the student agrees on each of them and on the rest. (Renormalizing the
chosen ones is blind to that mass, and dropping the rest may give less than 0.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.distributed import all_gather

from megatron_ipt.training.objectives.divergence.compute import PART_ON_GPU, log_normalizers, log_probabilities
from megatron_ipt.training.objectives.divergence.shard import Shard, rows_of
from megatron_ipt.training.objectives.vocabulary import row_parts


class TopK(NamedTuple):
    """The most probable entries of each position, the same on all ranks.

    Attributes:
        ids: in the order of their probability, of equal ones the lower id first; int64, [..., k].
        log_probabilities: fp32 or fp64, [..., k].
        log_rest: logarithm of the probability of all others, [...]; minus infinity if there are none.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor
    log_rest: torch.Tensor


@torch.no_grad()
def top_k(logits: torch.Tensor, k: int, vocabulary: int, group: Any = None, temperature: float = 1.0) -> TopK:
    """The ``k`` most probable entries; other arguments as of
    :func:`~megatron_ipt.training.objectives.divergence.compute.divergence`.

    Raises:
        ValueError: ``k`` is not from 1 to the size of the vocabulary.
    """
    if not 0 < k <= vocabulary:
        raise ValueError(f"k: {k} is not from 1 to the size of the vocabulary, {vocabulary}")
    shard = Shard.of(logits, vocabulary, group)
    rows = rows_of(logits)
    (normalizer,) = log_normalizers((rows,), shard, temperature)
    ids = torch.zeros(len(rows), k, dtype=torch.int64, device=rows.device)
    found = normalizer.new_full((len(rows), k), -torch.inf)
    count = min(k, shard.size)
    for part, of_part, to_ids, to in row_parts(rows, normalizer, ids, found, on_gpu=PART_ON_GPU):
        if count:
            numbers = log_probabilities(part, of_part, shard, temperature)
            to_ids[:, :count], to[:, :count] = _first_of_largest(numbers, count)
    ids, found = _of_all_ranks(ids + shard.first, found, shard)
    rest = _log_rest(rows, normalizer, ids, shard, temperature)
    lead = logits.shape[:-1]
    return TopK(ids.view(*lead, k), found.view(*lead, k), rest.view(lead))


def top_k_forward_kl(
    student: torch.Tensor, teacher: TopK, vocabulary: int, group: Any = None, temperature: float = 1.0
) -> torch.Tensor:
    """Forward KL in nats between the two distributions over ``k`` entries and the rest, [...], with its gradient.

    Args:
        student: logits, [..., columns].
        teacher: at the same temperature.
    """
    shard = Shard.of(student, vocabulary, group)
    result: torch.Tensor = _TopKForwardKL.apply(student, *teacher, shard, temperature)
    return result


class _TopKForwardKL(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        student: torch.Tensor,
        ids: torch.Tensor,
        log_p: torch.Tensor,
        log_rest_p: torch.Tensor,
        shard: Shard,
        temperature: float,
    ) -> torch.Tensor:
        rows, ids = rows_of(student), rows_of(ids)
        log_p, log_rest_p = rows_of(log_p), log_rest_p.flatten()
        (normalizer,) = log_normalizers((rows,), shard, temperature)
        log_q = _log_probabilities_of(ids, rows, normalizer, shard, temperature)
        log_rest_q = _log_rest(rows, normalizer, ids, shard, temperature)
        context.save_for_backward(student, normalizer, ids, log_p.exp(), log_rest_p - log_rest_q)
        context.how = shard, temperature
        rest = _weigh(log_rest_p.exp(), log_rest_p - log_rest_q)
        return _weigh(log_p.exp(), log_p - log_q).sum(-1).add_(rest).view(student.shape[:-1])

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        student, normalizer, ids, p, log_ratio = context.saved_tensors
        shard, temperature = context.how
        gradients = torch.zeros_like(student, memory_format=torch.contiguous_format)
        along = gradient.flatten() / temperature
        others = normalizer, rows_of(gradients), ids, p, log_ratio, along
        for part, of_part, to, chosen, of_chosen, ratio, factor in row_parts(
            rows_of(student), *others, on_gpu=PART_ON_GPU
        ):
            q, place = _with_spare_column(part, of_part, chosen, shard, temperature)
            # Of the chosen q - p, of the others q * (1 - p_rest / q_rest); if no others are left, that is 0 / 0.
            at_chosen = q.gather(-1, place).sub_(of_chosen)
            q.mul_(-torch.expm1(ratio.nan_to_num(nan=0.0)).unsqueeze(-1)).scatter_(-1, place, at_chosen)
            to[:, : shard.size] = q[:, : shard.size].mul_(factor.unsqueeze(-1))
        return gradients, None, None, None, None, None


def _weigh(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Product in which a weight of 0 always gives 0, whatever the number is."""
    return (weights * numbers).masked_fill_(weights == 0, 0)


def _with_spare_column(
    logits: torch.Tensor, normalizer: torch.Tensor, ids: torch.Tensor, shard: Shard, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of the entries on this rank with one more column of zeros, [rows, entries + 1], and the column of
    each of ``ids`` [rows, k]: the last one for those of other ranks."""
    probabilities = normalizer.new_zeros(len(logits), shard.size + 1)
    probabilities[:, : shard.size] = log_probabilities(logits, normalizer, shard, temperature).exp_()
    here = (ids >= shard.first) & (ids < shard.first + shard.size)
    return probabilities, torch.where(here, ids - shard.first, shard.size)


def _log_probabilities_of(
    ids: torch.Tensor, logits: torch.Tensor, normalizer: torch.Tensor, shard: Shard, temperature: float
) -> torch.Tensor:
    """Of each of ``ids`` [rows, k], whichever rank it is on."""
    here = (ids >= shard.first) & (ids < shard.first + shard.size)
    column = torch.where(here, ids - shard.first, 0)
    largest, log_sum = normalizer.split(1, -1)
    found = (logits.gather(-1, column).to(normalizer.dtype) - largest).div_(temperature).sub_(log_sum)
    return shard.sum(found.masked_fill_(~here, 0))


def _log_rest(
    logits: torch.Tensor, normalizer: torch.Tensor, ids: torch.Tensor, shard: Shard, temperature: float
) -> torch.Tensor:
    """Logarithm of the probability of all entries but ``ids``, [rows]; added up rather than taken from 1, to be exact
    where little is left."""
    rest = normalizer.new_empty(len(logits))
    for part, of_part, chosen, to in row_parts(logits, normalizer, ids, rest, on_gpu=PART_ON_GPU):
        probabilities, place = _with_spare_column(part, of_part, chosen, shard, temperature)
        torch.sum(probabilities.scatter_(-1, place, 0), -1, out=to)
    return shard.sum(rest).log_()


def _first_of_largest(numbers: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(columns, numbers) of the largest of each row in descending order; of equal ones, the first: [rows, count].

    torch.topk promises no order of equal numbers, nor which of them it takes.
    """
    least = numbers.topk(count, -1).values[:, -1:]
    above, equal = numbers > least, numbers == least
    taken = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    columns = taken.nonzero()[:, 1].view(-1, count)
    found, order = numbers.gather(-1, columns).sort(dim=-1, descending=True, stable=True)
    return columns.gather(-1, order), found


def _of_all_ranks(ids: torch.Tensor, found: torch.Tensor, shard: Shard) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of those that each rank has found, [rows, k] as before."""
    if shard.group is None:
        return ids, found
    gathered = []
    for own in (ids, found):
        of_ranks = [torch.empty_like(own) for _ in range(shard.group.size())]
        all_gather(of_ranks, own.contiguous(), group=shard.group)
        gathered.append(torch.cat(of_ranks, -1))
    # In the order of the ranks, equal ones are in the order of their ids, which a stable sort keeps.
    largest, order = gathered[1].sort(dim=-1, descending=True, stable=True)
    k = ids.size(-1)
    return gathered[0].gather(-1, order[:, :k]), largest[:, :k]
