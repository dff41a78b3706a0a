"""Normalisation and comparison of answers.

Normalisation, exact match and F1 are those of SQuAD (arXiv:1606.05250): lower case, no punctuation, no articles, single
spaces; F1 is the harmonic mean of precision and recall over the bags of words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+")
_STOP_WORDS = (
    "a an the and or but nor so if then than that this these those there here of to in on at by for from with as into "
    "onto over under about after before between through during without within against is are was were be been being "
    "am do does did done has have had having will would shall should can could may might must not no yes it its he him "
    "his she her hers they them their theirs we us our you your i me my who whom whose which what when where why how "
    "also only just very more most much many some any all each every both either neither such same other another"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that are ignored when comparing the content of an answer with its text."""


def normalised(answer: str) -> str:
    """``The Eiffel Tower.`` -> ``eiffel tower``."""
    text = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def words(text: str) -> list[str]:
    """Words of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """:func:`words` without stop words."""
    return [word for word in words(text) if word not in STOP_WORDS]


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the normalised words; 1 if both are empty, 0 if one is."""
    left, right = normalised(prediction).split(), normalised(gold).split()
    if not left or not right:
        return float(left == right)
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right))


def exact_match(prediction: str, golds: Iterable[str]) -> bool:
    """Whether the normalised prediction is one of the gold answers."""
    return normalised(prediction) in {normalised(gold) for gold in golds}


def best_f1(prediction: str, golds: Iterable[str]) -> float:
    """The maximum F1 over all gold answers."""
    return max((token_f1(prediction, gold) for gold in golds), default=0.0)
