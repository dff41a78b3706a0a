"""DPKD: the teacher's response is preferred to the student's, with the teacher as the reference (Li et al. 2024,
arXiv:2406.19774).

Of whole responses, equation 9: ``-log sigmoid(margin)`` with

    margin = beta / |y_t| * log(q(y_t) / p(y_t)) - beta / |y_s| * log(q(y_s) / p(y_s))

where y_t was drawn from the teacher p and y_s from the student q. (The gradient has the factor sigmoid(-margin);
equations 10 and 11 print the other sign.)

The authors' program works on single positions of given text: y_t and y_s are the tokens that teacher and student find
most probable there. The normalizers of the softmax cancel, so only four logits matter; where both choose the same token
the loss is log 2 and has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.training.objectives.divergence.shard import Shard, rows_of
from megatron_ipt.training.objectives.divergence.top_k import top_k


def sequence_dpkd(
    teacher_response: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    student_response: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    beta: float = 0.1,
    length_norm: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the margin of each pair of responses to one prompt, [pairs].

    Args:
        teacher_response: of the teacher's responses ``log q`` (with gradient), ``log p`` and the mask, [pairs, seq].
        student_response: the same of the student's.
        length_norm: divide by the lengths of the responses (equation 9), or not (equation 8).
    """
    of_teacher, of_student = (_log_ratio(*response, length_norm) for response in (teacher_response, student_response))
    margin = beta * (of_teacher - of_student)
    return -torch.nn.functional.logsigmoid(margin), margin.detach()


def _log_ratio(log_q: torch.Tensor, log_p: torch.Tensor, mask: torch.Tensor, length_norm: bool) -> torch.Tensor:
    total = torch.where(mask > 0, log_q - log_p, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1) if length_norm else total


def token_dpkd(
    student: torch.Tensor, teacher: torch.Tensor, vocabulary: int, group: Any = None, beta: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss at each position, and whether both choose the same token there, [...].

    Args:
        student: logits of this rank's part of the vocabulary, [..., columns], with gradient.
        teacher: the same of the teacher.
        vocabulary: number of entries without padding.
        group: ranks that split the vocabulary; None if there is only this one.
    """
    preferred = top_k(teacher, 1, vocabulary, group).ids
    own = top_k(student, 1, vocabulary, group).ids
    ids = torch.cat([preferred, own], -1)
    shard = Shard.of(student, vocabulary, group)
    of_student, of_teacher = (_ChosenLogits.apply(logits, ids, shard) for logits in (student, teacher.detach()))
    margin = beta * ((of_student - of_teacher) * of_student.new_tensor([1.0, -1.0])).sum(-1)
    return -torch.nn.functional.logsigmoid(margin), (preferred == own).squeeze(-1)


class _ChosenLogits(torch.autograd.Function):
    """Logits of ``ids`` [..., k], whichever rank holds them, in fp32 or fp64."""

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, ids: torch.Tensor, shard: Shard) -> torch.Tensor:
        here = (ids >= shard.first) & (ids < shard.first + shard.size)
        columns = torch.where(here, ids - shard.first, 0)
        context.save_for_backward(columns, here)
        context.like = logits.shape, logits.dtype
        found = rows_of(logits).gather(-1, rows_of(columns)).view(ids.shape)
        return shard.sum(found.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill_(~here, 0))

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        columns, here = context.saved_tensors
        shape, dtype = context.like
        gradients = torch.zeros(shape, dtype=dtype, device=gradient.device)
        along = gradient.masked_fill(~here, 0).to(dtype)
        rows_of(gradients).scatter_add_(-1, rows_of(columns), rows_of(along))
        return gradients, None, None
