"""MiniLLM's loss as the authors' program computes it, which differs from the paper.

Rewards, returns and importance weights are fixed when the responses are drawn; over the inner epochs only the student's
probabilities change, in a clipped ratio as in PPO. Returns are discounted and *include* the reward of the token itself,
which the single-step part counts as well. They are always divided by the tokens that are left, and whitened.

All tensors are [batch, seq]; a row's mask marks its response, the token that ends it included.
"""

from __future__ import annotations

import torch

WHITEN = ("all", "response", "none")
"""Mean and deviation of advantages over all positions, padding included, as the program does; over the tokens of
responses; or advantages as they are."""
_LEAST_VARIANCE = 1e-8
"""Added to the variance."""


def released_rewards(
    log_p: torch.Tensor, log_q: torch.Tensor, mask: torch.Tensor, scaling: float = 0.5, clip: float = 100.0
) -> torch.Tensor:
    """``(log p - log q) / scaling``, limited to ``clip`` on both sides; 0 outside the responses."""
    rewards = ((log_p - log_q) / scaling).clamp(-clip, clip)
    return torch.where(mask > 0, rewards, 0.0)


def released_advantages(
    rewards: torch.Tensor, mask: torch.Tensor, gamma: float = 0.95, whiten: str = "all", length_norm: bool = True
) -> torch.Tensor:
    """Discounted returns from each token on, divided by the tokens that are left, whitened; no gradient.

    Args:
        whiten: one of :data:`WHITEN`, over all rows given: those of one optimizer step.
    """
    returns = torch.zeros_like(rewards)
    behind = torch.zeros_like(rewards[:, 0])
    for position in reversed(range(rewards.size(1))):
        behind = rewards[:, position] + gamma * behind
        returns[:, position] = behind
    if length_norm:
        counted = mask.to(rewards)
        left = counted.flip(-1).cumsum(-1).flip(-1) * counted
        returns = returns / left.clamp(min=1)
    if whiten == "none":
        return returns.detach()
    of = returns.flatten() if whiten == "all" else returns[mask > 0]
    variance, mean = torch.var_mean(of, correction=0)
    return ((returns - mean) * (variance + _LEAST_VARIANCE).rsqrt()).detach()


def released_loss(
    log_q: torch.Tensor,
    log_q_then: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    single: torch.Tensor,
    mask: torch.Tensor,
    clip: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of all tokens, and whether the ratio of each is clipped.

    Args:
        log_q: of the student, with gradient.
        log_q_then: of the student when the responses were drawn.
        weights: q over what the tokens were drawn from, of that time.
        single: KL(q || p) of the distributions at each token, with gradient.
        clip: epsilon of the clipped ratio, which the weight is a part of.

    Returns:
        Sum over the tokens of the responses, and [batch, seq] of 0 and 1.
    """
    counted = mask > 0
    ratio = torch.where(counted, log_q - log_q_then, 0.0).exp() * weights
    bounded = ratio.clamp(1 - clip, 1 + clip)
    policy = torch.maximum(-advantages * ratio, -advantages * bounded)
    is_clipped = torch.where(counted, -advantages * bounded > -advantages * ratio, False)
    return torch.where(counted, policy + single, 0.0).sum(), is_clipped.to(advantages)
