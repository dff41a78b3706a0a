"""Divergences between a student's distribution q and a teacher's p, as two functions of a vocabulary entry.

A divergence is a sum over the vocabulary of f(p, q). Its gradient with respect to logit j of the student is

    q_j * df/dq_j - q_j * sum_v q_v * df/dq_v

so all that is needed besides f is ``q * df/dq``. A constant in df/dq cancels and is left out. Everything is computed
from logarithms: a probability that is too small for its precision is 0, but its logarithm is still exact.

Reverse and forward KL: Gu et al., "MiniLLM" (arXiv:2306.08543, section 2). Generalized Jensen-Shannon divergence:
Agarwal et al., "On-Policy Distillation of Language Models" (arXiv:2306.13649, section 2). Skewed KL: Ko et al.,
"DistiLLM" (arXiv:2402.03898, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch


class Both(NamedTuple):
    """Student (q) and teacher (p): probabilities and their logarithms, [rows, entries]."""

    q: torch.Tensor
    p: torch.Tensor
    log_q: torch.Tensor
    log_p: torch.Tensor


OfEntries = Callable[[Both], torch.Tensor]


class Kind(NamedTuple):
    """Attributes:
    values: f of each entry, [rows, entries].
    weighted: ``q * df/dq`` of each entry, up to a constant in df/dq.
    """

    values: OfEntries
    weighted: OfEntries


def weigh(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Product in which a weight of 0 always gives 0, whatever the number is."""
    return (weights * numbers).masked_fill_(weights == 0, 0)


def _forward_values(both: Both) -> torch.Tensor:
    return weigh(both.p, both.log_p - both.log_q)


def _reverse_values(both: Both) -> torch.Tensor:
    return weigh(both.q, both.log_q - both.log_p)


def _student_entropy(both: Both) -> torch.Tensor:
    return weigh(both.q, -both.log_q)


def teacher_entropy(both: Both) -> torch.Tensor:
    """What each entry adds to the teacher's entropy."""
    return weigh(both.p, -both.log_p)


FORWARD_KL = Kind(_forward_values, lambda both: -both.p)
REVERSE_KL = Kind(_reverse_values, _reverse_values)
ENTROPY = Kind(_student_entropy, _student_entropy)
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

    def values(both: Both) -> torch.Tensor:
        log_m = middle(both)
        return beta * weigh(both.p, both.log_p - log_m) + (1 - beta) * weigh(both.q, both.log_q - log_m)

    def weighted(both: Both) -> torch.Tensor:
        return (1 - beta) * weigh(both.q, both.log_q - middle(both))

    return Kind(values, weighted)


def skewed_forward(skew: float) -> Kind:
    """``KL(p || skew * p + (1 - skew) * q)``: bounded by ``-log(skew)``.

    Raises:
        ValueError: ``skew`` is not from 0, which is forward KL, to below 1.
    """
    _check_skew(skew)

    def values(both: Both) -> torch.Tensor:
        return weigh(both.p, both.log_p - _mixture(both.log_p, both.log_q, skew))

    def weighted(both: Both) -> torch.Tensor:
        ratio = (both.log_q - _mixture(both.log_p, both.log_q, skew)).exp_()
        return weigh(both.p, ratio.mul_(skew - 1))

    return Kind(values, weighted)


def skewed_reverse(skew: float) -> Kind:
    """``KL(q || (1 - skew) * p + skew * q)``: bounded by ``-log(skew)``.

    Raises:
        ValueError: ``skew`` is not from 0, which is reverse KL, to below 1.
    """
    _check_skew(skew)

    def distance(both: Both) -> torch.Tensor:
        return both.log_q - _mixture(both.log_q, both.log_p, skew)

    def values(both: Both) -> torch.Tensor:
        return weigh(both.q, distance(both))

    def weighted(both: Both) -> torch.Tensor:
        log_ratio = distance(both)
        return weigh(both.q, log_ratio - skew * log_ratio.exp())

    return Kind(values, weighted)


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
