"""Near-duplicates among short texts such as questions: MinHash finds candidates, their true similarity decides.

``NearDuplicates`` takes texts in order and says for each which earlier one it nearly repeats::

    seen = NearDuplicates(threshold=0.8)
    seen.find("a", "How many eggs does a queen bee lay in one summer?")    # None: kept, later texts are compared
    seen.find("b", "How many eggs does a queen bee lay, in one summer")    # "a": left out of later comparisons
    for (key, text), earlier in seen.find_all(questions): ...              # the same for many, several times as fast

Similarity is the Jaccard index of pairs of adjacent words, with the beginning and the end of the text as words. At 0.8,
one word more in twelve is a near-duplicate, another word in their place is a different question. Words are those of
:mod:`megatron_ipt.synthesis.words`. No text that is less similar than the threshold is ever called a near-duplicate; of
pairs right at the threshold, 1 % are missed, and fewer above it. The answer depends on the texts and their order alone,
not on how they are divided into calls. Memory grows with the number of texts that are kept: 1 to 2 kB each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from megatron_ipt.synthesis.words import words_of

Key = TypeVar("Key", bound=Hashable)

_MISSED = 0.01
"""Share of pairs with exactly the threshold as similarity that may be missed."""
_MOST_BANDS, _MOST_HASHES = 20, 256
"""More bands of more hashes give fewer false candidates, and take more memory and time."""
_BATCH = 1000


class NearDuplicates(Generic[Key]):
    """Finds near-duplicates among the texts it is given.

    Args:
        threshold: minimum similarity of near-duplicates, above 0, at most 1.
        seed: of the hash functions.
    """

    def __init__(self, threshold: float = 0.8, seed: int = 0):
        # Imported here, so that what never looks for near-duplicates starts without it.
        import rensa

        if not 0 < threshold <= 1:
            raise ValueError(f"threshold {threshold}: expected a number above 0, at most 1")
        rows, bands = rows_and_bands(threshold)
        self._threshold = threshold
        self._seed = seed
        self._hashes = rows * bands
        self._sketches = rensa.RMinHash.from_token_sets
        self._index = rensa.RMinHashLSH(threshold, self._hashes, bands)
        self._keys: list[Key] = []
        self._texts: list[bytes] = []

    def __len__(self) -> int:
        """Number of texts that later ones are compared with."""
        return len(self._keys)

    def find(self, key: Key, text: str) -> Key | None:
        """Key of the most similar earlier text, the first of equals, if it is similar enough.

        None where there is none. The text is then kept, and later ones are compared with it; a near-duplicate is not,
        so that texts that differ a little from one to the next do not all count as one. A text without any word is
        neither.
        """
        ((_, earlier),) = self.find_all([(key, text)])
        return earlier

    def find_all(self, items: Iterable[tuple[Key, str]]) -> Iterator[tuple[tuple[Key, str], Key | None]]:
        """Each of ``items``, (key, text), with what :meth:`find` says of it. Reads ahead by up to 1,000 items."""
        remaining = iter(items)
        while batch := list(islice(remaining, _BATCH)):
            texts = [words_of(text) for _, text in batch]
            sketches = self._sketches([_shingles(words) for words in texts], self._hashes, self._seed)
            for item, words, sketch in zip(batch, texts, sketches):
                yield item, self._find(item[0], words, sketch)

    def _find(self, key: Key, words: list[str], sketch: object) -> Key | None:
        if not words:
            return None
        shingles = set(_shingles(words))
        best, most_similar = -1, 0.0
        for number in sorted(self._index.query(sketch)):
            similarity = jaccard(shingles, set(_shingles(self._texts[number].decode().split(" "))))
            if similarity >= self._threshold and similarity > most_similar:
                best, most_similar = number, similarity
        if best >= 0:
            return self._keys[best]
        self._index.insert(len(self._keys), sketch)
        self._keys.append(key)
        # As bytes, because a corpus has millions of them.
        self._texts.append(" ".join(words).encode())
        return None


def similarity(left: str, right: str) -> float:
    """Similarity of two texts as this module measures it, 0 to 1."""
    return jaccard(set(_shingles(words_of(left))), set(_shingles(words_of(right))))


def jaccard(left: set[str], right: set[str]) -> float:
    """Size of the intersection over size of the union."""
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def rows_and_bands(threshold: float) -> tuple[int, int]:
    """Hashes per band and number of bands: the most selective bands that miss at most 1 % at ``threshold``.

    Two texts of similarity s agree on a whole band of r hashes with probability s^r, so b bands miss them with
    probability (1 - s^r)^b.
    """
    if threshold == 1:
        return 8, 1
    best = (1, math.ceil(math.log(_MISSED) / math.log1p(-threshold)))
    for rows in range(2, _MOST_HASHES + 1):
        bands = math.ceil(math.log(_MISSED) / math.log1p(-(threshold**rows)))
        if bands > _MOST_BANDS or rows * bands > _MOST_HASHES:
            break
        best = (rows, bands)
    return best


def _shingles(words: list[str]) -> list[str]:
    """Pairs of adjacent words, with the edges of the text."""
    return [f"{left} {right}" for left, right in zip(["", *words], [*words, ""])]
