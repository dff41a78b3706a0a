"""Relevance of a pair to its text, measured by retrieval: among all texts, its own should be the most similar.

Texts and pairs (question, options and answer) are TF-IDF vectors of unit length with weights
(1 + ln tf) · (1 + ln((1 + N) / (1 + df))), compared by cosine similarity. Generic pairs ("What is the main idea?") and
pairs about something else do not retrieve their text. With an inverted index, a thousand texts take about a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.evaluation.judge.text import words
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.pairs import Example, Pair


class TextIndex:
    """Inverted index of the TF-IDF vectors of ``texts``."""

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(words(text)) for text in texts]
        frequency = Counter(word for count in counts for word in count)
        self.size = len(texts)
        self._weight = {word: 1 + math.log((1 + self.size) / (1 + df)) for word, df in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = {word: ([], []) for word in frequency}
        for number, count in enumerate(counts):
            vector = self._vector(count)
            for word, value in vector.items():
                numbers, values = postings[word]
                numbers.append(number)
                values.append(value)
        self._postings = {word: (np.array(numbers), np.array(values)) for word, (numbers, values) in postings.items()}

    def similarities(self, query: str) -> npt.NDArray[np.float64]:
        """Cosine similarity of ``query`` with every text, [texts]; words that occur in no text are ignored."""
        scores = np.zeros(self.size)
        for word, value in self._vector(Counter(words(query))).items():
            numbers, values = self._postings[word]
            scores[numbers] += value * values
        return scores

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        vector = {word: (1 + math.log(n)) * self._weight[word] for word, n in count.items() if word in self._weight}
        length = math.sqrt(sum(value * value for value in vector.values())) or 1.0
        return {word: value / length for word, value in vector.items()}


def relevance(examples: Sequence[Example], texts: int, seed: int) -> dict[str, Any]:
    """How often the text of a pair is the most similar one.

    Args:
        texts: maximum number of texts to compare with; chosen by a hash of their id. Of equal texts the first is used.
        seed: seed of that choice.

    Returns:
        ``{texts, pairs, own_text_first, mean_reciprocal_rank, chance}``. Ties rank before the pair's own text, so an
        empty pair never ranks first.
    """
    unique = {example.text: example for example in reversed(examples) if example.text.strip()}
    chosen = sorted(unique.values(), key=lambda example: derive(seed, "judge", example.id))[:texts]
    index = TextIndex([example.text for example in chosen])
    ranks = [
        _rank(index.similarities(_query(pair)), number)
        for number, example in enumerate(chosen)
        for pair in example.pairs
    ]
    return {
        "texts": len(chosen),
        "pairs": len(ranks),
        "own_text_first": sum(rank == 1 for rank in ranks) / len(ranks) if ranks else None,
        "mean_reciprocal_rank": sum(1 / rank for rank in ranks) / len(ranks) if ranks else None,
        "chance": 1 / len(chosen) if chosen else None,
    }


def _query(pair: Pair) -> str:
    return " ".join((pair.question, *pair.options, pair.answer))


def _rank(scores: npt.NDArray[np.float64], own: int) -> int:
    # Tolerance for ties: the order of summation changes the last bits.
    return int((scores >= scores[own] - 1e-12).sum())
