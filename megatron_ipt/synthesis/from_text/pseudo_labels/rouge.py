"""ROUGE-1 F1 of every sentence of a text with the rest of it, in time linear in the text.

Definition (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, with n = 1): the overlap of two texts
is the number of words they share, each counted as often as it occurs in both; precision and recall are the overlap over
the number of words of either text, so F1 = 2 overlap / (words of one + words of the other). Words are runs of a to z
and 0 to 9 in lower case, without stemming, as in the package ``rouge-score``. That package would count the rest of the
text anew for every sentence, which is quadratic; a test compares the values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.synthesis.from_text.mined.lexicon import ENGLISH

_TELLING_LETTERS = 4
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a sentence shares with the rest of its text.

    Attributes:
        shared: words they share.
        own: words of the sentence.
        rest: words of the rest.
        telling, telling_shared: different words of the sentence of at least four letters that are not function words,
            and those of them that the rest has, too.
    """

    shared: int
    own: int
    rest: int
    telling: int
    telling_shared: int

    @property
    def f1(self) -> float:
        words = self.own + self.rest
        return 2 * self.shared / words if words else 0.0

    def reaches(self, percent: int) -> bool:
        """Whether F1 is at least ``percent`` hundredths, without rounding."""
        return self.own > 0 and 200 * self.shared >= percent * (self.own + self.rest)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def overlaps(text: str, spans: Sequence[tuple[int, int]]) -> list[Overlap]:
    """The overlap of each span of ``text`` with everything outside it; no span may cut a word."""
    every = Counter(words_of(text))
    total = every.total()
    found = []
    for start, end in spans:
        own = Counter(words_of(text[start:end]))
        length = own.total()
        shared = sum(min(count, every[word] - count) for word, count in own.items())
        telling = [word for word in own if len(word) >= _TELLING_LETTERS and word not in ENGLISH]
        repeated = sum(every[word] > own[word] for word in telling)
        found.append(Overlap(shared, length, total - length, len(telling), repeated))
    return found
