"""The rule, and an index of test questions that applies it to many texts at once.

A text holds a test question of 13 or more words if 13 of its words in a row stand in the text; one of 4 to 12 words, if
all its words stand in it in a row; a shorter one, if the text has the same words and no others. Words are those of
:mod:`megatron_ipt.synthesis.words`.

Texts are joined and hashed with numpy. The hash of a row of words is a polynomial, so those of all rows of one length
are differences of one cumulative sum; there is one such pass per length of test questions, ten at most. A small table
discards nearly all rows, a sorted list of full hashes the rest but one in 10^13, and what is left is compared word by
word: no collision can drop a text. Memory grows with the test questions: about 60 bytes for each of their words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from megatron_ipt.decontamination.config import NGRAM, SHORTEST
from megatron_ipt.synthesis.words import folded, words_of

_BATCH_CHARACTERS = 1 << 18
"""Arrays of this many numbers stay in the cache of a core."""

Hashes = npt.NDArray[np.uint64]
Item = TypeVar("Item")


class Question(NamedTuple):
    """A question of a test set.

    Attributes:
        test_set: file or benchmark.
        number: of the question in it, from 1: of the line, where questions stand in lines.
        text: of the question.
    """

    test_set: str
    number: int
    text: str


@dataclass(frozen=True)
class Match:
    """A test question that a text holds; ``words`` are those that both have in a row, ``start`` the place of the first
    among the words of the text."""

    question: Question
    start: int
    words: tuple[str, ...]


class Index:
    """Finds test questions in texts.

    Of questions of one test set that share a row of words, the first is named; a question without any word is left out.

    Args:
        questions: the test questions.
        ngram: words in a row of a question that has so many.
    """

    def __init__(self, questions: Iterable[Question], ngram: int = NGRAM):
        self.questions: list[Question] = []
        self.without_words = 0
        self.short = 0
        """Questions that only match as a whole text."""
        self._words: list[str] = []
        whole: dict[str, list[int]] = {}
        by_length: dict[int, list[int]] = {}
        for question in questions:
            words = words_of(question.text)
            if not words:
                self.without_words += 1
                continue
            number = len(self.questions)
            self.questions.append(question)
            self._words.append(" ".join(words))
            if len(words) < SHORTEST:
                self.short += 1
                _add_first(whole, self._words[-1], number, self.questions)
            else:
                by_length.setdefault(min(len(words), ngram), []).append(number)
        self._whole = whole
        self._rows = [
            _Rows(length, [self._words[number] for number in numbers], numbers, self.questions)
            for length, numbers in sorted(by_length.items())
        ]

    def find(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        """The test questions that each text holds, in the order in which they stand in it."""
        batch = _Batch(texts)
        found: dict[int, dict[int, _Place]] = {}
        for rows in self._rows:
            for place, entry in rows.hits(batch):
                text = batch.text_at(place)
                if batch.text_at(place + rows.length - 1) != text:
                    continue
                known = found.setdefault(text, {})
                for number, start in rows.questions_of(entry):
                    end = known[number].end if number in known else 0
                    if number in known and place != end - rows.length + 1:
                        continue
                    words = batch.words(place, place + rows.length)
                    if words == self._words[number].split(" ")[start : start + rows.length]:
                        first = known[number].start if number in known else place
                        known[number] = _Place(first, place + rows.length)
        if self._whole:
            self._add_whole(batch, found)
        return [self._matches(batch, text, found[text]) if text in found else () for text in range(len(texts))]

    def _add_whole(self, batch: _Batch, found: dict[int, dict[int, _Place]]) -> None:
        for text in np.flatnonzero((batch.counts > 0) & (batch.counts < SHORTEST)).tolist():
            first = int(batch.first_words[text])
            end = first + int(batch.counts[text])
            for number in self._whole.get(" ".join(batch.words(first, end)), ()):
                found.setdefault(text, {})[number] = _Place(first, end)

    def _matches(self, batch: _Batch, text: int, places: dict[int, _Place]) -> tuple[Match, ...]:
        first = int(batch.first_words[text])
        ordered = sorted(places.items(), key=lambda entry: (entry[1].start, entry[0]))
        return tuple(
            Match(self.questions[number], place.start - first, tuple(batch.words(place.start, place.end)))
            for number, place in ordered
        )


def batches(items: Iterable[tuple[Item, Sequence[str]]]) -> Iterator[list[tuple[Item, Sequence[str]]]]:
    """Groups (item, its texts) into batches of the size at which :meth:`Index.find` is fastest."""
    batch: list[tuple[Item, Sequence[str]]] = []
    characters = 0
    for item, texts in items:
        batch.append((item, texts))
        characters += sum(map(len, texts))
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Place(NamedTuple):
    """First word and end of a row of words, as numbers of words of a batch."""

    start: int
    end: int


class _Batch:
    """Words of texts, as places in one string and as hashes."""

    def __init__(self, texts: Sequence[str]):
        parts = [folded(text) for text in texts]
        # No word goes on from one text to the next.
        self._joined = "\n".join(parts)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        ends = np.cumsum(lengths + 1)
        if self._joined.isascii():
            codes: npt.NDArray[Any] = np.frombuffer(self._joined.encode("ascii"), np.uint8)
            in_word = _word_characters(128)[codes]
        else:
            # Half of a surrogate pair is no letter, and no reason to stop.
            codes = np.frombuffer(self._joined.encode("utf-32-le", "surrogatepass"), np.uint32)
            in_word = _word_characters(0x110000)[codes]
        edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
        self.starts, self._ends = edges[::2], edges[1::2]
        self.hashes = _word_hashes(codes, self.starts, self._ends)
        # Number of the first word of each text, and how many it has.
        bounds = np.searchsorted(self.starts, np.concatenate([[0], ends]))
        self.first_words, self.counts = bounds[:-1], np.diff(bounds)
        self._text_ends = ends
        self._sums: Hashes | None = None

    def rows(self, length: int) -> Hashes:
        """Hashes of all rows of ``length`` words, also of those that go on from one text to the next."""
        count = len(self.hashes) - length + 1
        if count <= 0:
            return np.empty(0, np.uint64)
        if self._sums is None:
            self._sums = _sums(self.hashes * _powers(_ROW_BASE, len(self.hashes)))
        rows = self._sums[length:] - self._sums[:count]
        rows *= _powers(_ROW_INVERSE, count)
        return rows

    def text_at(self, word: int) -> int:
        """Number of the text in which a word stands."""
        return int(np.searchsorted(self._text_ends, self.starts[word], side="right"))

    def words(self, start: int, end: int) -> list[str]:
        places = zip(self.starts[start:end].tolist(), self._ends[start:end].tolist())
        return [self._joined[first:last] for first, last in places]


class _Rows:
    """All rows of one length of some test questions.

    Args:
        length: in words.
        words: of each question, joined by spaces.
        numbers: of the questions.
        questions: all of them.
    """

    def __init__(self, length: int, words: list[str], numbers: list[int], questions: list[Question]):
        self.length = length
        batch = _Batch(words)
        hashes = batch.rows(length)
        place = np.repeat(np.arange(len(words)), batch.counts)
        inside = np.flatnonzero(place[: len(hashes)] == place[length - 1 :])
        order = inside[np.argsort(hashes[inside], kind="stable")]
        test_sets = [questions[number].test_set for number in numbers]
        order = order[
            ~_repeated(hashes[order], order, lambda at: (test_sets[place[at]], *batch.words(at, at + length)))
        ]
        self._questions = np.asarray(numbers, np.uint32)[place[order]]
        self._starts = (order - batch.first_words[place[order]]).astype(np.uint32)
        # `_keys` has each hash once, `_first` where its entries begin.
        self._keys, first = np.unique(hashes[order], return_index=True)
        self._first = np.append(first, len(order))
        bits = max(16, math.ceil(math.log2(len(self._keys))) + 4)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[(self._keys >> self._shift).astype(np.int64)] = True

    def hits(self, batch: _Batch) -> Iterator[tuple[int, int]]:
        """(number of its first word in the batch, entry) of every row whose hash is that of an entry."""
        rows = batch.rows(self.length)
        likely = np.flatnonzero(self._table[(rows >> self._shift).astype(np.int64)])
        if not likely.size:
            return
        entries = np.searchsorted(self._keys, rows[likely])
        entries[entries == len(self._keys)] = 0
        same = self._keys[entries] == rows[likely]
        yield from zip(likely[same].tolist(), entries[same].tolist())

    def questions_of(self, entry: int) -> Iterator[tuple[int, int]]:
        """(number of the question, its word at which the row begins) of the first question of each test set."""
        places = slice(self._first[entry], self._first[entry + 1])
        return zip(self._questions[places].tolist(), self._starts[places].tolist())


def _repeated(
    hashes: Hashes, places: npt.NDArray[np.intp], content: Callable[[int], tuple[str, ...]]
) -> npt.NDArray[np.bool_]:
    """Which of sorted ``hashes`` stand for the content of an earlier one; ``content`` is asked where they are equal."""
    repeated = np.zeros(len(hashes), bool)
    equal = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    seen: set[tuple[str, ...]] = set()
    last = -1
    for number in equal.tolist():
        if number != last + 1:
            seen = {content(int(places[number - 1]))}
        last = number
        found = content(int(places[number]))
        repeated[number] = found in seen
        seen.add(found)
    return repeated


def _add_first(table: dict[str, list[int]], words: str, number: int, questions: list[Question]) -> None:
    numbers = table.setdefault(words, [])
    if all(questions[other].test_set != questions[number].test_set for other in numbers):
        numbers.append(number)


# Odd numbers have an inverse modulo 2^64, so the hash of a row does not depend on where it stands.
_WORD_BASE = 0x9E3779B97F4A7C15
_ROW_BASE = 0xC2B2AE3D27D4EB4F
_WORD_INVERSE, _ROW_INVERSE = (pow(base, -1, 1 << 64) for base in (_WORD_BASE, _ROW_BASE))
_MIX = np.uint64(0xD6E8FEB86659FD93)


def _word_hashes(codes: npt.NDArray[Any], starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]) -> Hashes:
    sums = _sums(codes * _powers(_WORD_BASE, len(codes)))
    hashes = (sums[ends] - sums[starts]) * _powers(_WORD_INVERSE, len(codes))[starts]
    # A polynomial of few short words is not random enough to be the coefficient of another one.
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _sums(values: Hashes) -> Hashes:
    """Sums of the first 0, 1, 2, ... values, modulo 2^64."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=sums[1:])
    return sums


def _powers(base: int, count: int) -> Hashes:
    """The first powers of ``base``, modulo 2^64."""
    return _table_of_powers(base, 1 << max(18, (count - 1).bit_length()))[:count]


@lru_cache(maxsize=8)
def _table_of_powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


@lru_cache(maxsize=2)
def _word_characters(count: int) -> npt.NDArray[np.bool_]:
    """Which of the first code points are letters or digits."""
    return np.fromiter((chr(code).isalnum() for code in range(count)), bool, count)
