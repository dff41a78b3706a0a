"""Divergences between a student's and a teacher's distribution over a vocabulary that tensor parallelism may split.

Each takes logits of this rank's columns [..., vocabulary / ranks] and gives one number in nats for each position [...],
with an exact gradient for the student and no communication in the backward pass. What all of them mean by their
arguments is said by :func:`~megatron_ipt.training.objectives.divergence.compute.divergence`.
"""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.training.objectives.divergence import kinds
from megatron_ipt.training.objectives.divergence.compute import (
    Comparison,
    compare,
    divergence,
    divergence_with_comparison,
    entropy,
)
from megatron_ipt.training.objectives.divergence.log_softmax import log_softmax
from megatron_ipt.training.objectives.divergence.top_k import TopK, top_k, top_k_forward_kl

__all__ = [
    "Comparison", "TopK", "compare", "divergence", "divergence_with_comparison", "entropy", "forward_kl", "jsd",
    "log_softmax", "reverse_kl", "skew_forward_kl", "skew_reverse_kl", "top_k", "top_k_forward_kl",
]  # fmt: skip


def forward_kl(
    student: torch.Tensor, teacher: torch.Tensor, vocabulary: int, group: Any = None, temperature: float = 1.0
) -> torch.Tensor:
    """KL(teacher || student): the student covers all that the teacher finds likely."""
    return divergence(kinds.FORWARD_KL, student, teacher, vocabulary, group, temperature)


def reverse_kl(
    student: torch.Tensor, teacher: torch.Tensor, vocabulary: int, group: Any = None, temperature: float = 1.0
) -> torch.Tensor:
    """KL(student || teacher): the student avoids what the teacher finds unlikely."""
    return divergence(kinds.REVERSE_KL, student, teacher, vocabulary, group, temperature)


def jsd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    beta: float,
    vocabulary: int,
    group: Any = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Generalized Jensen-Shannon divergence, see :func:`~.kinds.jensen_shannon`."""
    return divergence(kinds.jensen_shannon(beta), student, teacher, vocabulary, group, temperature)


def skew_forward_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    skew: float,
    vocabulary: int,
    group: Any = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """KL(teacher || skew * teacher + (1 - skew) * student)."""
    return divergence(kinds.skewed_forward(skew), student, teacher, vocabulary, group, temperature)


def skew_reverse_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    skew: float,
    vocabulary: int,
    group: Any = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """KL(student || (1 - skew) * teacher + skew * student)."""
    return divergence(kinds.skewed_reverse(skew), student, teacher, vocabulary, group, temperature)
