"""The divergences as textbooks have them, on whole vocabularies and with torch's own derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch

Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL divergence of probabilities [..., entries]."""
    return (first * (first / second).log()).sum(-1)


def jsd(beta: float) -> Formula:
    def formula(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        middle = beta * p + (1 - beta) * q
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)

    return formula


FORMULAS: dict[str, Formula] = {
    "forward_kl": lambda q, p: kl(p, q),
    "reverse_kl": kl,
    "jsd 0.1": jsd(0.1),
    "jsd 0.5": jsd(0.5),
    "skew_forward_kl 0.1": lambda q, p: kl(p, 0.1 * p + 0.9 * q),
    "skew_reverse_kl 0.1": lambda q, p: kl(q, 0.9 * p + 0.1 * q),
    "skew_reverse_kl 0": kl,
    "entropy": lambda q, p: -(q * q.log()).sum(-1),
}


def bucketed(q: torch.Tensor, p: torch.Tensor, k: int) -> torch.Tensor:
    """Forward KL between the ``k`` largest of ``p`` and one bucket with the rest."""
    chosen = p.argsort(dim=-1, descending=True, stable=True)[..., :k]
    of_p, of_q = p.gather(-1, chosen), q.gather(-1, chosen)
    with_rest = [torch.cat([part, 1 - part.sum(-1, keepdim=True)], -1) for part in (of_p, of_q)]
    return kl(*with_rest)
