"""What a question is about: some concepts of one session, or of two, drawn without replacement (GLAN, section 2.4).

There are two laws, chosen by a share: one session with 1 to 5 of its concepts, or two with 2 to 5 of both, at least one
of each. Within a law, the session or the pair of sessions comes first, then the number of concepts, then which ones,
each uniformly. A set that was drawn before is drawn again, so that no two questions of a subject share one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_CONCEPTS = 5
"""In one question."""
_ENUMERATED = 20_000
"""Up to this many possible draws are listed; of more, a few thousand collide rarely enough to draw until one is new."""


@dataclass(frozen=True)
class Session:
    """A session of a syllabus: its name and key concepts, without repetition."""

    name: str
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """What one question is about.

    Attributes:
        sessions: numbers of the sessions, one or two, ascending.
        concepts: of these sessions, in the order of the syllabus.
    """

    sessions: tuple[int, ...]
    concepts: tuple[str, ...]


def possible(sessions: Sequence[Session]) -> tuple[int, int]:
    """Number of possible draws from one session and from two.

    With m concepts, one session has the sum of C(m, i) for i = 1..5. Two sessions with m1 and m2 have the sum of
    C(m1 + m2, i) - C(m1, i) - C(m2, i) for i = 2..5; a concept of both counts in the first only.
    """
    single = sum(_single(len(session.concepts)) for session in sessions)
    double = sum(_double(len(first), len(second)) for first, second in _pairs(sessions).values())
    return single, double


def draw(sessions: Sequence[Session], number: int, two_sessions_share: float, seed: random.Random) -> list[Draw]:
    """``number`` different draws, or all there are if that is fewer.

    Args:
        sessions: of a syllabus; those without concepts are never drawn.
        number: of draws.
        two_sessions_share: fraction of the draws that are from two sessions, where both laws have draws left.
        seed: consumed by the draws.
    """
    singles, doubles = possible(sessions)
    if singles + doubles <= max(_ENUMERATED, 4 * number):
        return _weighted(sessions, number, two_sessions_share if doubles else 0.0, seed)
    return _rejecting(sessions, number, two_sessions_share, seed)


def _weighted(sessions: Sequence[Session], number: int, two_share: float, seed: random.Random) -> list[Draw]:
    """By exponential keys (Efraimidis and Spirakis 2006): as drawing one after the other without replacement."""
    keyed = []
    for probability, found in _every(sessions, two_share):
        if probability > 0:
            # 1 - random() is never 0.
            keyed.append((-math.log(1.0 - seed.random()) / probability, found))
    keyed.sort(key=lambda item: (item[0], item[1].sessions, item[1].concepts))
    return [found for _, found in keyed[:number]]


def _rejecting(sessions: Sequence[Session], number: int, two_share: float, seed: random.Random) -> list[Draw]:
    with_concepts = [index for index, session in enumerate(sessions) if session.concepts]
    pairs = _pairs(sessions)
    names = list(pairs)
    drawn: dict[Draw, None] = {}
    while len(drawn) < number:
        if names and (seed.random() < two_share or not with_concepts):
            first, second = pairs[key := names[seed.randrange(len(names))]]
            size = seed.choice(_sizes_of_two(len(first), len(second)))
            both = (*first, *second)
            while True:
                chosen = sorted(seed.sample(range(len(both)), size))
                if chosen[0] < len(first) <= chosen[-1]:
                    break
            drawn[Draw(key, tuple(both[index] for index in chosen))] = None
        else:
            index = with_concepts[seed.randrange(len(with_concepts))]
            concepts = sessions[index].concepts
            size = seed.randrange(1, min(MOST_CONCEPTS, len(concepts)) + 1)
            places = sorted(seed.sample(range(len(concepts)), size))
            drawn[Draw((index,), tuple(concepts[place] for place in places))] = None
    return list(drawn)


def _every(sessions: Sequence[Session], two_share: float) -> Iterator[tuple[float, Draw]]:
    """Every possible draw with its probability as a first draw."""
    with_concepts = [(index, session.concepts) for index, session in enumerate(sessions) if session.concepts]
    for index, concepts in with_concepts:
        sizes = range(1, min(MOST_CONCEPTS, len(concepts)) + 1)
        of_session = (1.0 - two_share) / len(with_concepts) / len(sizes)
        for size in sizes:
            each = of_session / math.comb(len(concepts), size)
            for chosen in itertools.combinations(concepts, size):
                yield each, Draw((index,), chosen)
    pairs = _pairs(sessions)
    for key, (first, second) in pairs.items():
        sizes_of_two = _sizes_of_two(len(first), len(second))
        for size in sizes_of_two:
            each = two_share / len(pairs) / len(sizes_of_two) / _double_of_size(len(first), len(second), size)
            for of_first in range(max(1, size - len(second)), min(len(first), size - 1) + 1):
                for left in itertools.combinations(first, of_first):
                    for right in itertools.combinations(second, size - of_first):
                        yield each, Draw(key, left + right)


def _pairs(sessions: Sequence[Session]) -> dict[tuple[int, int], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Concepts of every two sessions from which two can be drawn, those of both sessions only in the first."""
    found = {}
    for (i, first), (j, second) in itertools.combinations(enumerate(sessions), 2):
        own = tuple(concept for concept in second.concepts if concept not in first.concepts)
        if first.concepts and own:
            found[i, j] = first.concepts, own
    return found


def _sizes_of_two(first: int, second: int) -> range:
    return range(2, min(MOST_CONCEPTS, first + second) + 1)


def _single(concepts: int) -> int:
    return sum(math.comb(concepts, size) for size in range(1, MOST_CONCEPTS + 1))


def _double(first: int, second: int) -> int:
    return sum(_double_of_size(first, second, size) for size in _sizes_of_two(first, second))


def _double_of_size(first: int, second: int, size: int) -> int:
    return math.comb(first + second, size) - math.comb(first, size) - math.comb(second, size)
