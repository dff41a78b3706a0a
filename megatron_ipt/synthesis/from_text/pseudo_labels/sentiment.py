"""The sentiment of a text by VADER, a lexicon with rules for negation and emphasis (Hutto and Gilbert, ICWSM 2014).

VADER gives the shares of a text that are positive, negative and neutral. A text has a label when less than 0.78 of it
is neutral and one of the others leads by more than 0.05. UDIT calls everything else below 0.78 negative, also where
both are equally strong; such texts get no label here. Two more conditions keep matter-of-fact texts out. Names carry no
sentiment: the "War" of the Seven Years' War and the "Party" of a political party are neutral. And at least two words
must be strong: many that the lexicon finds slightly positive ("interest", "share", "as well") are not an opinion.

The package copies all words of the text for every word that carries sentiment, which is quadratic; it is given only the
neighbours that it looks at, and gives the same scores.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import punctuation
from types import SimpleNamespace
from typing import Any

POSITIVE, NEGATIVE = "positive", "negative"
LABELS = (POSITIVE, NEGATIVE)

NEUTRAL_BELOW = 0.78
LEAD_ABOVE = 0.05
_NAME = re.compile(r"(?<=[a-z,’'] )[A-Z][a-z]+")
"""A word with a capital inside a sentence."""
STRONG_FROM, LEAST_STRONG = 2.0, 2
"""Valence in the lexicon, from -4 to 4, of a strong word, and how many a text needs."""
_WORDS_BEFORE, _WORDS_AFTER = 3, 2
"""That VADER looks at around a word."""


def sentiment_of(text: str) -> str | None:
    """``positive`` or ``negative``; None where it is unclear."""
    text = _NAME.sub("name", text)
    scores = scores_of(text)
    label = label_of(scores["pos"], scores["neg"], scores["neu"])
    if label is None:
        return None
    lexicon, sign = _analyzer().lexicon, 1 if label == POSITIVE else -1
    words = (word.strip(punctuation).lower() for word in text.split())
    strong = sum(sign * lexicon.get(word, 0.0) >= STRONG_FROM for word in words)
    return label if strong >= LEAST_STRONG else None


def label_of(positive: float, negative: float, neutral: float) -> str | None:
    """The label that VADER's shares give, which it rounds to thousandths."""
    # In thousandths, so that 0.15 - 0.1 does not count as more than 0.05.
    lead = round(1000 * positive) - round(1000 * negative)
    if neutral >= NEUTRAL_BELOW or abs(lead) <= round(1000 * LEAD_ABOVE):
        return None
    return POSITIVE if lead > 0 else NEGATIVE


def scores_of(text: str) -> dict[str, float]:
    """VADER's ``pos``, ``neg``, ``neu`` and ``compound``."""
    scores: dict[str, float] = _analyzer().polarity_scores(text)
    return scores


@lru_cache(maxsize=1)
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    class Analyzer(SentimentIntensityAnalyzer):
        def sentiment_valence(self, valence: float, text: Any, item: str, place: int, found: list[float]) -> Any:
            if item.lower() not in self.lexicon:
                found.append(valence)
                return found
            first = max(0, place - _WORDS_BEFORE)
            words = text.words_and_emoticons[first : place + _WORDS_AFTER + 1]
            near = SimpleNamespace(words_and_emoticons=words, is_cap_diff=text.is_cap_diff)
            return super().sentiment_valence(valence, near, item, place - first, found)

    return Analyzer()
