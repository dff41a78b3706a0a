"""How well an encoder finds texts of the same task, beside chance and BM25.

Every query is compared with one text of its task and some of others, hard ones among them, and is right if that one
scores highest. Only tasks that no encoder was trained on say whether it will find tasks in a corpus.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.composition.encoder.model import SentenceEncoder
from megatron_ipt.composition.encoder.tasks import Group

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Accuracy:
    """Share of queries whose own task scores highest; a tie among n counts 1/n.

    Attributes:
        right: the share.
        error: its standard error.
        by_task: the same by task.
    """

    right: float
    error: float
    by_task: Mapping[str, float]


def accuracy(groups: Sequence[Group], score: Callable[[str, str], float]) -> Accuracy:
    """Accuracy of a score of (query, context)."""
    found: dict[str, list[float]] = {}
    for group in groups:
        scores = [score(group.query.text, context.text) for context in group.contexts]
        best = max(scores)
        share = 1 / scores.count(best) if scores[0] == best else 0.0
        found.setdefault(group.query.task, []).append(share)
    everything = [share for shares in found.values() for share in shares]
    mean = math.fsum(everything) / len(everything)
    variance = math.fsum((share - mean) ** 2 for share in everything) / max(len(everything) - 1, 1)
    by_task = {task: math.fsum(shares) / len(shares) for task, shares in sorted(found.items())}
    return Accuracy(mean, math.sqrt(variance / len(everything)), by_task)


def encoder_score(encoder: SentenceEncoder, groups: Sequence[Group]) -> Callable[[str, str], float]:
    """Dot products of vectors; every text is encoded once."""
    texts = list(
        dict.fromkeys(text for group in groups for text in (group.query.text, *(c.text for c in group.contexts)))
    )
    vectors = dict(zip(texts, encoder.encode(texts).astype("float64")))
    return lambda query, context: float(vectors[query] @ vectors[context])


class BM25:
    """Okapi BM25 over a collection of texts (k1 = 1.2, b = 0.75).

    Args:
        texts: the collection, for document frequencies and the mean length.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75):
        self._k1, self._b = k1, b
        self._counts = {text: Counter(words(text)) for text in texts}
        self._mean = sum(counts.total() for counts in self._counts.values()) / max(len(self._counts), 1)
        self._frequency = Counter(word for counts in self._counts.values() for word in counts)

    def score(self, query: str, text: str) -> float:
        """Of a text of the collection for a query."""
        counts, number = self._counts[text], len(self._counts)
        length = self._k1 * (1 - self._b + self._b * counts.total() / self._mean)
        total = 0.0
        for word in words(query):
            if word in counts:
                frequency = self._frequency[word]
                weight = math.log(1 + (number - frequency + 0.5) / (frequency + 0.5))
                total += weight * counts[word] * (self._k1 + 1) / (counts[word] + length)
        return total


def words(text: str) -> list[str]:
    """Case-folded words."""
    return _WORD.findall(text.casefold())
