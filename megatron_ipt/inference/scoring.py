"""What a model thinks of a text: summed log-likelihoods, the counterpart of generation.

An engine that can score takes token ids with a mask and returns, per text, the sum of the natural-log probabilities of
the counted tokens given everything before them, and how many were counted. Averages are left to the caller, because
they do not add up over windows and ranks; sums do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SIMILAR = 0.93
_LARGE = 8


@dataclass(frozen=True)
class ScoreRequest:
    """A text to score.

    Attributes:
        ids: token ids as the model sees them, BOS included where it wants one.
        mask: which tokens count, one flag per id; None counts all. The first token is never counted: nothing precedes
            it, so no model predicts it.
    """

    ids: Sequence[int]
    mask: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and len(self.mask) != len(self.ids):
            raise ValueError(f"a mask of {len(self.mask)} flags for {len(self.ids)} ids")

    @property
    def counted(self) -> list[int]:
        """Places of the counted tokens in ``ids``."""
        places = range(1, len(self.ids))
        return list(places) if self.mask is None else [place for place in places if self.mask[place]]

    def score(self, log_likelihoods: Sequence[float]) -> Score:
        """The score of this text.

        Args:
            log_likelihoods: of the counted tokens, in order, in nats.
        """
        return Score(math.fsum(log_likelihoods), len(log_likelihoods))


@dataclass(frozen=True)
class Score:
    """Score of one text.

    Attributes:
        log_likelihood: sum over the counted tokens, in nats; at most 0, or NaN where the model produced NaN.
        tokens: how many tokens were counted.
    """

    log_likelihood: float
    tokens: int


def fills_batch(rows: int, shortest: int, longest: int, budget: int) -> bool:
    """Whether ``rows`` texts of ``shortest`` to ``longest`` tokens, padded to the longest, are a batch to be computed.

    At most ``budget`` tokens, padding included; but a batch that has an eighth of them without its last text takes
    none shorter than 93 % of its longest: where texts are few, padding would cost more than the rest of the budget
    gains.
    """
    is_large = (rows - 1) * longest * _LARGE >= budget
    return rows == 1 or (rows * longest <= budget and not (is_large and shortest < _SIMILAR * longest))
