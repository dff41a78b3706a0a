"""Divergences between a student's distribution q and a teacher's p, as two functions of a vocabulary entry.

A divergence is a sum over the vocabulary of f(p, q). Its gradient with respect to logit j of the student is

    q_j * df/dq_j - q_j * sum_v q_v * df/dq_v

so all that is needed besides f is ``q * df/dq`` and its sum. A constant in df/dq cancels and is left out. Everything is
computed from logarithms: a probability that is too small for its precision is 0, but its logarithm is still exact.

Reverse and forward KL: Gu et al., "MiniLLM" (arXiv:2306.08543, section 2). Generalized Jensen-Shannon divergence:
Agarwal et al., "On-Policy Distillation of Language Models" (arXiv:2306.13649, section 2). Skewed KL: Ko et al.,
"DistiLLM" (arXiv:2402.03898, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch


@dataclass
class Both:
    """Student (q) and teacher (p): probabilities and their logarithms, all finite, [rows, entries]."""

    q: torch.Tensor
    p: torch.Tensor
    log_q: torch.Tensor
    log_p: torch.Tensor

    @cached_property
    def log_ratio(self) -> torch.Tensor:
        """``log(p / q)``."""
        return self.log_p - self.log_q


class Kind(NamedTuple):
    """Attributes:
    value: sum of f over the entries, [rows].
    weighted: ``q * df/dq`` of each entry, up to a constant in df/dq: [rows, entries].
    mean: sum of that over the entries, [rows].
    """

    value: Callable[[Both], torch.Tensor]
    weighted: Callable[[Both], torch.Tensor]
    mean: Callable[[Both], torch.Tensor]


def _dot(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.vecdot(weights, numbers)
    return found


def forward_kl(both: Both) -> torch.Tensor:
    """KL(p || q) of each row."""
    return _dot(both.p, both.log_ratio)


def reverse_kl(both: Both) -> torch.Tensor:
    """KL(q || p) of each row."""
    return -_dot(both.q, both.log_ratio)


def student_entropy(both: Both) -> torch.Tensor:
    """Of each row."""
    return -_dot(both.q, both.log_q)


def teacher_entropy(both: Both) -> torch.Tensor:
    """Of each row."""
    return -_dot(both.p, both.log_p)


FORWARD_KL = Kind(forward_kl, lambda both: -both.p, lambda both: -both.p.sum(-1))
REVERSE_KL = Kind(reverse_kl, lambda both: -both.q * both.log_ratio, reverse_kl)
ENTROPY = Kind(student_entropy, lambda both: -both.q * both.log_q, student_entropy)
"""Of the student."""


def jensen_shannon(beta: float) -> Kind:
    """``beta * KL(p || m) + (1 - beta) * KL(q || m)`` with ``m = beta * p + (1 - beta) * q``.

    It goes to 0 with ``beta`` and with ``1 - beta``; divided by those, to forward and reverse KL.

    Raises:
        ValueError: ``beta`` is not between 0 and 1, where the divergence is 0 for any two models.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta: {beta:g} is not between 0 and 1, at which the divergence of any two models is 0")

    def middle(both: Both) -> torch.Tensor:
        return _mixture(both.log_p, both.log_q, beta)

    def value(both: Both) -> torch.Tensor:
        log_m = middle(both)
        return beta * _dot(both.p, both.log_p - log_m) + (1 - beta) * _dot(both.q, both.log_q - log_m)

    def weighted(both: Both) -> torch.Tensor:
        return (both.log_q - middle(both)).mul_(both.q).mul_(1 - beta)

    return Kind(value, weighted, lambda both: (1 - beta) * _dot(both.q, both.log_q - middle(both)))


def skewed_forward(skew: float) -> Kind:
    """``KL(p || skew * p + (1 - skew) * q)``: bounded by ``-log(skew)``.

    Raises:
        ValueError: ``skew`` is not from 0, which is forward KL, to below 1.
    """
    _check_skew(skew)

    def mixture(both: Both) -> torch.Tensor:
        return _mixture(both.log_p, both.log_q, skew)

    def weighted(both: Both) -> torch.Tensor:
        return (both.log_q - mixture(both)).exp_().mul_(both.p).mul_(skew - 1)

    return Kind(lambda both: _dot(both.p, both.log_p - mixture(both)), weighted, lambda both: weighted(both).sum(-1))


def skewed_reverse(skew: float) -> Kind:
    """``KL(q || (1 - skew) * p + skew * q)``: bounded by ``-log(skew)``.

    Raises:
        ValueError: ``skew`` is not from 0, which is reverse KL, to below 1.
    """
    _check_skew(skew)

    def distance(both: Both) -> torch.Tensor:
        return both.log_q - _mixture(both.log_q, both.log_p, skew)

    def weighted(both: Both) -> torch.Tensor:
        log_ratio = distance(both)
        return (log_ratio - skew * log_ratio.exp()).mul_(both.q)

    return Kind(lambda both: _dot(both.q, distance(both)), weighted, lambda both: weighted(both).sum(-1))


def _check_skew(skew: float) -> None:
    if not 0 <= skew < 1:
        raise ValueError(f"skew: {skew:g} is not from 0 to below 1")


def _mixture(log_a: torch.Tensor, log_b: torch.Tensor, share_of_a: float) -> torch.Tensor:
    """Logarithm of ``share * a + (1 - share) * b``."""
    if share_of_a == 0:
        return log_b
    return torch.logaddexp(log_a + math.log(share_of_a), log_b + math.log1p(-share_of_a))


def kind_named(objective: str, beta: float, skew: float) -> Kind:
    """The divergence that ``training.distillation.objective`` names.

    Args:
        beta: of ``jsd``.
        skew: of ``skew_forward_kl`` and ``skew_reverse_kl``.
    """
    kinds: dict[str, Callable[[], Kind]] = {
        "forward_kl": lambda: FORWARD_KL,
        "reverse_kl": lambda: REVERSE_KL,
        "jsd": lambda: jensen_shannon(beta),
        "skew_forward_kl": lambda: skewed_forward(skew),
        "skew_reverse_kl": lambda: skewed_reverse(skew),
    }
    return kinds[objective]()
