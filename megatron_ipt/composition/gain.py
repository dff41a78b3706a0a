"""What paragraphs gain from standing in one context: the loss of their tokens alone less that in the context.

s is the mean of the difference over all tokens that have a loss alone (PICL, arXiv:2305.09137, section 3.2); the first
token of a paragraph has none. Sums and counts are enough, so any engine that scores will do. Text of any kind before a
text lowers its loss a little, and copies of a text lower it most: random contexts say how large s must be to mean
anything, and copies are kept out before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from megatron_ipt.inference.scoring import ScoreRequest


def alone_request(ids: Sequence[int], bos: int | None) -> ScoreRequest:
    """A paragraph by itself, line break included; its first token does not count, whatever precedes it."""
    return joined_request([ids], bos)


def joined_request(paragraphs: Sequence[Sequence[int]], bos: int | None) -> ScoreRequest:
    """Paragraphs in one context; the first token of each does not count."""
    ids: list[int] = [] if bos is None else [bos]
    mask = [False] * len(ids)
    for paragraph in paragraphs:
        ids += paragraph
        mask += [False, *[True] * (len(paragraph) - 1)]
    return ScoreRequest(ids, mask)


def gain(alone: Iterable[float], joined: float, tokens: int) -> float:
    """s in nats per token.

    Args:
        alone: summed loss of each paragraph by itself.
        joined: summed loss of the same tokens in the context.
        tokens: how many there are.
    """
    return (math.fsum(alone) - joined) / tokens if tokens else math.nan


def threshold_of(random: Sequence[float], random_pass: float) -> float:
    """The gain that a context must exceed: at most ``random_pass`` of the random ones do; never below 0."""
    if not random:
        return 0.0
    ordered = sorted(random, reverse=True)
    passing = math.floor(random_pass * len(ordered))
    return max(0.0, ordered[passing] if passing < len(ordered) else 0.0)


def blend_weights(fill: float, share: float) -> tuple[float, float]:
    """Weights of (contexts, documents) in samples, so that ``share`` of the tokens are in contexts.

    A context fills only a part of its sample, a document all of it. For half of the tokens, that is 1 / (1 + fill).
    """
    contexts = share / fill
    total = contexts + 1 - share
    return contexts / total, (1 - share) / total
