"""Divergences over a vocabulary that tensor parallelism splits, with gradients in closed form.

Ranks exchange a few numbers for each position in the forward pass (largest logits, sums of exponentials, sums of the
result) and nothing in the backward pass, in which each computes the gradient of its own columns from its logits and
what was kept: five numbers for each position. Logits are read in parts of bounded size; the only
new tensor of their size is the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from megatron_ipt.training.objectives.divergence import kinds
from megatron_ipt.training.objectives.divergence.kinds import Both, Kind
from megatron_ipt.training.objectives.divergence.shard import Shard, rows_of
from megatron_ipt.training.objectives.vocabulary import row_parts

PART_ON_GPU = 1 << 22
"""Numbers at a time: about eight tensors of 16 MiB live during the computation of a part."""
_FLOOR = -1e37
"""Stands for the logarithm of 0, so that 0 times it is 0."""
_INFINITE = 1e10
"""Nats above which a divergence contains it."""


class Comparison(NamedTuple):
    """What two models say of each position, at temperature 1 and in nats; no gradients, [...].

    Attributes:
        same_top: 1 where the teacher's most probable entry (of equal ones the one with the lowest id) is one that the
            student finds most probable, too.
    """

    forward_kl: torch.Tensor
    reverse_kl: torch.Tensor
    student_entropy: torch.Tensor
    teacher_entropy: torch.Tensor
    same_top: torch.Tensor


_COMPARED = (kinds.forward_kl, kinds.reverse_kl, kinds.student_entropy, kinds.teacher_entropy)
"""In the order of :class:`Comparison`."""


def divergence(
    kind: Kind,
    student: torch.Tensor,
    teacher: torch.Tensor,
    vocabulary: int,
    group: Any = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """A divergence in nats for each position, [...]; fp32, or fp64 for such logits.

    Its gradient with respect to the student's logits is exact, and exactly 0 for padding. The teacher is a constant.

    Args:
        student, teacher: logits of the same columns, [..., vocabulary / ranks of the group]. They are not changed.
        vocabulary: entries without padding; columns from there on are not looked at.
        group: process group that splits the vocabulary; None if this rank has all of it.
        temperature: divides the logits of both.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.
    """
    shard = _checked(student, teacher, vocabulary, group, temperature)
    result: torch.Tensor = _Divergence.apply(student, teacher, kind, shard, temperature, False)[0]
    return result


def divergence_with_comparison(
    kind: Kind,
    student: torch.Tensor,
    teacher: torch.Tensor,
    vocabulary: int,
    group: Any = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, Comparison]:
    """:func:`divergence` and :func:`compare` with little more work than the first alone at temperature 1."""
    if temperature != 1:
        result = divergence(kind, student, teacher, vocabulary, group, temperature)
        return result, compare(student, teacher, vocabulary, group)
    shard = _checked(student, teacher, vocabulary, group, temperature)
    result, *compared = _Divergence.apply(student, teacher, kind, shard, temperature, True)
    return result, Comparison(*compared)


@torch.no_grad()
def compare(student: torch.Tensor, teacher: torch.Tensor, vocabulary: int, group: Any = None) -> Comparison:
    """Both KL divergences, both entropies, and whether the models agree; arguments as of :func:`divergence`."""
    shard = _checked(student, teacher, vocabulary, group, 1.0)
    return Comparison(*_Divergence.apply(student, teacher, kinds.FORWARD_KL, shard, 1.0, True)[1:])


def entropy(logits: torch.Tensor, vocabulary: int, group: Any = None, temperature: float = 1.0) -> torch.Tensor:
    """Entropy in nats for each position, [...], with its gradient; arguments as of :func:`divergence`."""
    return divergence(kinds.ENTROPY, logits, logits.detach(), vocabulary, group, temperature)


def _checked(student: torch.Tensor, teacher: torch.Tensor, vocabulary: int, group: Any, temperature: float) -> Shard:
    if student.shape != teacher.shape:
        raise ValueError(f"student's logits are {list(student.shape)}, the teacher's {list(teacher.shape)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: {temperature} is not a positive number")
    return Shard.of(student, vocabulary, group)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        kind: Kind,
        shard: Shard,
        temperature: float,
        compares: bool,
    ) -> tuple[torch.Tensor, ...]:
        rows = rows_of(student), rows_of(teacher)
        functions = [kind.value, kind.mean]
        if compares:
            functions += _COMPARED
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        sums = torch.empty(len(functions), len(rows[0]), dtype=dtype, device=student.device)
        if shard.group is None:
            normalizers = torch.empty(2, len(rows[0]), 2, dtype=dtype, device=student.device)
            parts: Iterator[Any] = _parts_alone(rows, normalizers, shard, temperature, sums.t())
        else:
            normalizers = log_normalizers(rows, shard, temperature)
            parts = _parts(rows, normalizers, shard, temperature, sums.t())
        for both, to in parts:
            found: dict[Any, torch.Tensor] = {}
            for index, function in enumerate(functions):
                if function not in found:
                    found[function] = function(both)
                to[:, index] = found[function]
        # What is as far apart as the floor allows is infinitely far apart.
        shard.sum(sums).masked_fill_(sums > _INFINITE, torch.inf)
        context.save_for_backward(student, teacher, normalizers, sums[1])
        context.how = kind, shard, temperature
        results = [sums[0], *sums[2:]] + ([_same_top(rows, normalizers, shard)] if compares else [])
        shaped = [result.view(student.shape[:-1]) for result in results]
        context.mark_non_differentiable(*shaped[1:])
        return tuple(shaped)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        student, teacher, normalizers, means = context.saved_tensors
        kind, shard, temperature = context.how
        gradients = torch.empty_like(student, memory_format=torch.contiguous_format)
        gradients[..., shard.size :] = 0
        rows = rows_of(student), rows_of(teacher)
        along = gradient.flatten() / temperature
        others = rows_of(gradients), means, along
        for both, to, mean, factor in _parts(rows, normalizers, shard, temperature, *others):
            slope = kind.weighted(both).sub(both.q.mul_(mean.unsqueeze(-1)))
            to[:, : shard.size].copy_(slope.mul_(factor.unsqueeze(-1)))
        return gradients, None, None, None, None, None


def log_normalizers(rows: tuple[torch.Tensor, ...], shard: Shard, temperature: float) -> torch.Tensor:
    """What makes log-probabilities of logits: for each row the largest logit, which is subtracted first, and the
    logarithm of the sum of what is left; [models, rows, 2], fp32 or fp64.

    Args:
        rows: logits of each model, [rows, columns].
    """
    largest = shard.max(torch.stack([_largest(logits, shard) for logits in rows]))
    sums = torch.empty_like(largest)
    for logits, most, to in zip(rows, largest, sums):
        for part, shift, total in row_parts(logits, most, to, on_gpu=PART_ON_GPU):
            torch.sum(_shifted(part, shift.unsqueeze(-1), shard, temperature).exp_(), -1, out=total)
    return torch.stack([largest, shard.sum(sums).log_()], -1)


def log_probabilities(logits: torch.Tensor, normalizer: torch.Tensor, shard: Shard, temperature: float) -> torch.Tensor:
    """Log-probabilities of the entries on this rank in fp32 or fp64, [rows, entries].

    Args:
        normalizer: of these rows, [rows, 2].
    """
    largest, log_sum = normalizer.split(1, -1)
    return _shifted(logits, largest, shard, temperature).sub_(log_sum)


def _shifted(logits: torch.Tensor, largest: torch.Tensor, shard: Shard, temperature: float) -> torch.Tensor:
    shifted = logits[:, : shard.size].to(largest.dtype) - largest
    return shifted if temperature == 1 else shifted.div_(temperature)


def _largest(logits: torch.Tensor, shard: Shard) -> torch.Tensor:
    """The largest logit of each row, in the precision of the computation; minus infinity where all is padding."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if not shard.size:
        return torch.full_like(logits[:, 0], -torch.inf, dtype=dtype)
    return logits[:, : shard.size].amax(-1).to(dtype)


def _same_top(rows: tuple[torch.Tensor, ...], normalizers: torch.Tensor, shard: Shard) -> torch.Tensor:
    """See :class:`Comparison`; [rows], 0 or 1."""
    (student, teacher), largest = rows, normalizers[..., 0]
    ids = torch.full_like(largest[1], torch.iinfo(torch.int64).max, dtype=torch.int64)
    same = torch.zeros_like(largest[0])
    if shard.size:
        found = teacher[:, : shard.size].argmax(-1, keepdim=True)
        # A rank whose largest one is smaller than another's drops out.
        is_top = teacher.gather(-1, found).squeeze(-1) == largest[1]
        ids = torch.where(is_top, found.squeeze(-1) + shard.first, ids)
    shard.min(ids)
    if shard.size:
        column = (ids - shard.first).clamp(0, shard.size - 1).unsqueeze(-1)
        is_here = (ids >= shard.first) & (ids < shard.first + shard.size)
        same = ((student.gather(-1, column).squeeze(-1) == largest[0]) & is_here).to(same.dtype)
    return shard.max(same)


def _parts_alone(
    rows: tuple[torch.Tensor, torch.Tensor],
    normalizers: torch.Tensor,
    shard: Shard,
    temperature: float,
    *others: torch.Tensor,
) -> Iterator[tuple[Any, ...]]:
    """As :func:`_parts` on a rank that has the whole vocabulary: finds the normalizers on the way, so that logits are
    read once and only one exponential is taken of each."""
    student, teacher = rows
    for own, to_own, other, to_other, *rest in row_parts(
        student, normalizers[0], teacher, normalizers[1], *others, on_gpu=PART_ON_GPU
    ):
        log_q, q = _distribution(own, to_own, shard, temperature)
        log_p, p = _distribution(other, to_other, shard, temperature)
        yield Both(q, p, log_q, log_p), *rest


def _distribution(
    logits: torch.Tensor, normalizer: torch.Tensor, shard: Shard, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, none below the floor, and probabilities; fills ``normalizer`` [rows, 2]."""
    largest, log_sum = normalizer.split(1, -1)
    torch.amax(logits[:, : shard.size].to(normalizer.dtype), -1, keepdim=True, out=largest)
    shifted = _shifted(logits, largest, shard, temperature)
    probabilities = shifted.exp()
    total = probabilities.sum(-1, keepdim=True)
    torch.log(total, out=log_sum)
    return shifted.sub_(log_sum).clamp_(min=_FLOOR), probabilities.div_(total)


def _parts(
    rows: tuple[torch.Tensor, torch.Tensor],
    normalizers: torch.Tensor,
    shard: Shard,
    temperature: float,
    *others: torch.Tensor,
) -> Iterator[tuple[Any, ...]]:
    """(both distributions, others) of some rows at a time."""
    student, teacher = rows
    for own, for_own, other, for_other, *rest in row_parts(
        student, normalizers[0], teacher, normalizers[1], *others, on_gpu=PART_ON_GPU
    ):
        log_q = log_probabilities(own, for_own, shard, temperature).clamp_(min=_FLOOR)
        log_p = log_probabilities(other, for_other, shard, temperature).clamp_(min=_FLOOR)
        yield Both(log_q.exp(), log_p.exp(), log_q, log_p), *rest
