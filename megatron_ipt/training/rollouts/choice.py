"""Which token comes next: the likeliest, or one drawn from the model, from its teacher, or from both.

A draw inverts the cumulative distribution at one uniform number. The numbers of a text come from its own stream, so a
text does not depend on what is generated beside it, nor on how many ranks do it, beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megatron_ipt.errors import RecipeError


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen.

    Attributes:
        temperature: 0 always takes the likeliest token, the lowest id where several are.
        teacher_share: alpha in ``alpha p + (1 - alpha) q``, from which MiniLLM samples token by token (Gu et al. 2024,
            section 2.2); p is the teacher, q the model.
    """

    temperature: float = 1.0
    teacher_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise RecipeError(f"temperature: expected a number of at least 0, found {self.temperature:g}")
        if not 0 <= self.teacher_share <= 1:
            raise RecipeError(f"teacher_share: expected a number from 0 to 1, found {self.teacher_share:g}")


@dataclass(frozen=True)
class Chosen:
    """The next token of each row.

    Attributes:
        ids: [rows].
        log_probabilities: [rows, 3] in fp32: of the model, of its teacher (NaN without one), both at temperature 1, and
            of the distribution that the token was drawn from.
    """

    ids: torch.Tensor
    log_probabilities: torch.Tensor


def random_numbers(seeds: Sequence[int], length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) for the first ``length`` tokens of each text, [texts, length] in fp64 on the CPU.

    Args:
        seeds: one 64-bit integer for each text, see :func:`megatron_ipt.seeding.derive`.
    """
    streams = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(streams) if streams else np.zeros((0, length)))


def choose(logits: torch.Tensor, teacher: torch.Tensor | None, uniform: torch.Tensor, choice: Choice) -> Chosen:
    """Chooses the next token of each row.

    Args:
        logits: of the model, [rows, vocabulary].
        teacher: those of the teacher, over the same or a larger vocabulary whose first entries are the same.
        uniform: random numbers, [rows] in fp64.
    """
    own = logits.double().log_softmax(-1)
    other = None
    if teacher is not None:
        # Whatever the teacher has beyond the model's vocabulary cannot be chosen.
        other = teacher[:, : logits.size(-1)].double().log_softmax(-1)
    drawn_from = _drawn_from(own, other, choice)
    if choice.temperature == 0:
        most = drawn_from == drawn_from.amax(-1, keepdim=True)
        places = torch.arange(logits.size(-1), device=logits.device)
        ids = torch.where(most, places, logits.size(-1)).amin(-1)
    else:
        ids = draw(drawn_from, uniform)
    found = [part.gather(1, ids.unsqueeze(1)).squeeze(1) for part in (own, own if other is None else other, drawn_from)]
    if other is None:
        found[1] = torch.full_like(found[1], torch.nan)
    return Chosen(ids, torch.stack(found, 1).float())


def _drawn_from(own: torch.Tensor, other: torch.Tensor | None, choice: Choice) -> torch.Tensor:
    """Log-probabilities [rows, vocabulary] that tokens are drawn from."""
    tempered = own if choice.temperature in (0, 1) else (own / choice.temperature).log_softmax(-1)
    if not choice.teacher_share:
        return tempered
    if other is None:
        raise ValueError("teacher_share needs the teacher's logits")
    mixed = other if choice.temperature in (0, 1) else (other / choice.temperature).log_softmax(-1)
    return (choice.teacher_share * mixed.exp() + (1 - choice.teacher_share) * tempered.exp()).log()


def draw(log_probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Ids [rows] at which the cumulative distribution passes ``uniform`` [rows]; none of probability 0."""
    cumulative = log_probabilities.exp().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    ids = torch.searchsorted(cumulative, uniform.unsqueeze(1).to(cumulative) * total, right=True).squeeze(1)
    # Rounding may lead past the end; the last token with any probability is where the total is reached.
    last = torch.searchsorted(cumulative, total).squeeze(1)
    return torch.minimum(ids, last)
