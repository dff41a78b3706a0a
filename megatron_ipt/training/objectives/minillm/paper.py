"""MiniLLM's gradient as the paper derives it, and without bias.

The loss is KL(q || p) of whole responses, q the student and p the teacher. With ``r_t = log p(y_t) - log q(y_t)`` its
gradient splits exactly in two (section 2.2):

    sum_t  grad KL(q(.|y_<t) || p(.|y_<t))           single step: over the whole vocabulary, no sampling noise
    -sum_t R_{t+1} grad log q(y_t)                   long term: R_{t+1} = sum_{t'>t} r_t'

Responses are drawn token by token from ``s = alpha p + (1 - alpha) q``, where the weight ``q / s`` of one token is at
most ``1 / (1 - alpha)``. What is exact is their product over a response, with a large variance; the paper takes the
one factor of the token itself. ``exact`` has for each summand the factors that it depends on: the tokens before t for
the single step, those up to t' for the reward r_t'.

All tensors are [batch, seq]; a row's mask marks its response, the token that ends it included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

IMPORTANCE = ("token", "prefix", "exact", "none")
"""Weight of what is summed at a token: its own factor (the paper), the product up to it, without bias, or none."""


class Sampled(NamedTuple):
    """A batch of responses.

    Attributes:
        log_q: of the student for each token, with gradient.
        log_p: of the teacher.
        log_sampled: of what the tokens were drawn from.
        single: KL(q || p) of the distributions at each token, with gradient.
        mask: 1 for the tokens of the response.
    """

    log_q: torch.Tensor
    log_p: torch.Tensor
    log_sampled: torch.Tensor
    single: torch.Tensor
    mask: torch.Tensor


class Weighted(NamedTuple):
    """Attributes:
    loss: whose gradient is the estimate, summed over all rows; its value means nothing.
    reward: r_t of each token, 0 outside the response.
    weights: of each token, q over what it was drawn from; 1 outside the response.
    clipped: 1 where the weight of the long-term part is clipped.
    """

    loss: torch.Tensor
    reward: torch.Tensor
    weights: torch.Tensor
    clipped: torch.Tensor


def paper_loss(
    sampled: Sampled, importance: str = "token", length_norm: bool = True, clip: float | None = 0.2
) -> Weighted:
    """The loss of the paper (equations 4 to 7 and algorithm 1).

    Args:
        importance: one of :data:`IMPORTANCE`.
        length_norm: divide R_{t+1} by T - t - 1, one less than the tokens that it sums over, and at least 1.
        clip: epsilon of ``min(w, clip(w, 1 - epsilon, 1 + epsilon))`` as algorithm 1 prints it: a weight above
            1 + epsilon no longer has a gradient, whatever the sign of its reward. None for no clipping.
    """
    mask = sampled.mask > 0
    log_q, log_p, log_sampled, single = (torch.where(mask, part, 0.0) for part in sampled[:4])
    reward = (log_p - log_q).detach()
    log_ratio = log_q - log_sampled
    log_weights = log_ratio.detach()
    clipped = torch.zeros_like(reward)
    if importance == "exact":
        upto = log_weights.cumsum(-1)
        of_single, future = (upto - log_weights).exp(), _after(upto.exp() * reward)
        ratio = log_q - log_q.detach()
    else:
        of_log = {"token": log_weights, "prefix": log_weights.cumsum(-1), "none": torch.zeros_like(reward)}[importance]
        of_single, future = of_log.exp(), _after(reward)
        ratio = (log_q - log_q.detach() + of_log).exp()
        if clip is not None:
            clipped = torch.where(mask, ratio.detach() > 1 + clip, False).to(reward)
            ratio = ratio.clamp(max=1 + clip)
    if length_norm:
        future = future / (_after(mask.to(reward)) - 1).clamp(min=1)
    loss = torch.where(mask, of_single * single - ratio * future, 0.0).sum()
    return Weighted(loss, reward, log_weights.exp(), clipped)


def _after(values: torch.Tensor) -> torch.Tensor:
    """Sums of the values behind each position."""
    return values.flip(-1).cumsum(-1).flip(-1) - values
