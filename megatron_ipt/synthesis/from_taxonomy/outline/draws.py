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

Place = tuple[int, int]
"""Number of a session and of a concept in it, from 0."""


@dataclass(frozen=True)
class Session:
    """A session of a syllabus: its name and key concepts, without repetition."""

    name: str
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """What one question is about.

    Attributes:
        places: of the concepts, ascending; in one session or two.
    """

    places: tuple[Place, ...]

    @property
    def sessions(self) -> tuple[int, ...]:
        """Numbers of the sessions, one or two, ascending."""
        return tuple(dict.fromkeys(session for session, _ in self.places))

    @property
    def label(self) -> str:
        """For ids: ``1.2+3.1`` is the second concept of the first session and the first of the third."""
        return "+".join(f"{session + 1}.{concept + 1}" for session, concept in self.places)

    def concepts(self, sessions: Sequence[Session]) -> list[str]:
        """Names of the concepts, in the order of the syllabus."""
        return [sessions[session].concepts[concept] for session, concept in self.places]


def possible(sessions: Sequence[Session]) -> tuple[int, int]:
    """Number of possible draws from one session and from two.

    With m concepts, one session has the sum of C(m, i) for i = 1..5. Two sessions with m1 and m2 have the sum of
    C(m1 + m2, i) - C(m1, i) - C(m2, i) for i = 2..5; a concept of both counts in the first only.
    """
    single = sum(_single(len(session.concepts)) for session in sessions)
    double = sum(_double(len(first), len(second)) for first, second in _pairs(sessions))
    return single, double


def reachable(sessions: Sequence[Session], two_sessions_share: float) -> int:
    """Number of draws that there are with this share: none from one session if all are from two, and so on."""
    singles, doubles = possible(sessions)
    if not doubles:
        return singles
    return (singles if two_sessions_share < 1 else 0) + (doubles if two_sessions_share > 0 else 0)


def draw(sessions: Sequence[Session], number: int, two_sessions_share: float, seed: random.Random) -> list[Draw]:
    """``number`` different draws, or all there are if that is fewer.

    Args:
        sessions: of a syllabus; those without concepts are never drawn.
        number: of draws.
        two_sessions_share: fraction of the draws that are from two sessions, where both laws have draws left. One
            session alone is drawn from whatever the share.
        seed: consumed by the draws.
    """
    singles, doubles = possible(sessions)
    share = two_sessions_share if doubles else 0.0
    # Each law must have many more draws than may be asked of it, or drawing until one is new takes for ever.
    fewest = min(count for count, wanted in ((singles, share < 1), (doubles, share > 0)) if wanted)
    if fewest > max(_ENUMERATED, 4 * number):
        return _rejecting(sessions, number, share, seed)
    return _weighted(sessions, number, share, seed)


def _weighted(sessions: Sequence[Session], number: int, two_share: float, seed: random.Random) -> list[Draw]:
    """By exponential keys (Efraimidis and Spirakis 2006): as drawing one after the other without replacement."""
    keyed = []
    for probability, found in _every(sessions, two_share):
        if probability > 0:
            # 1 - random() is never 0.
            keyed.append((-math.log(1.0 - seed.random()) / probability, found.places))
    keyed.sort()
    return [Draw(places) for _, places in keyed[:number]]


def _rejecting(sessions: Sequence[Session], number: int, two_share: float, seed: random.Random) -> list[Draw]:
    singles = [_places(index, session) for index, session in enumerate(sessions) if session.concepts]
    pairs = _pairs(sessions)
    drawn: dict[Draw, None] = {}
    while len(drawn) < number:
        if seed.random() < two_share:
            first, second = pairs[seed.randrange(len(pairs))]
            size = seed.choice(_sizes_of_two(len(first), len(second)))
            both = (*first, *second)
            while True:
                chosen = sorted(seed.sample(range(len(both)), size))
                if chosen[0] < len(first) <= chosen[-1]:
                    break
            drawn[Draw(tuple(both[index] for index in chosen))] = None
        else:
            places = singles[seed.randrange(len(singles))]
            size = seed.randrange(1, min(MOST_CONCEPTS, len(places)) + 1)
            drawn[Draw(tuple(places[index] for index in sorted(seed.sample(range(len(places)), size))))] = None
    return list(drawn)


def _every(sessions: Sequence[Session], two_share: float) -> Iterator[tuple[float, Draw]]:
    """Every possible draw with its probability as a first draw."""
    singles = [_places(index, session) for index, session in enumerate(sessions) if session.concepts]
    for places in singles:
        sizes = range(1, min(MOST_CONCEPTS, len(places)) + 1)
        of_session = (1.0 - two_share) / len(singles) / len(sizes)
        for size in sizes:
            each = of_session / math.comb(len(places), size)
            for chosen in itertools.combinations(places, size):
                yield each, Draw(chosen)
    pairs = _pairs(sessions) if two_share else []
    for first, second in pairs:
        sizes_of_two = _sizes_of_two(len(first), len(second))
        for size in sizes_of_two:
            each = two_share / len(pairs) / len(sizes_of_two) / _double_of_size(len(first), len(second), size)
            for of_first in range(max(1, size - len(second)), min(len(first), size - 1) + 1):
                for left in itertools.combinations(first, of_first):
                    for right in itertools.combinations(second, size - of_first):
                        yield each, Draw(left + right)


def _places(index: int, session: Session) -> tuple[Place, ...]:
    return tuple((index, concept) for concept in range(len(session.concepts)))


def _pairs(sessions: Sequence[Session]) -> list[tuple[tuple[Place, ...], tuple[Place, ...]]]:
    """Places of the concepts of every two sessions from which two can be drawn, those of both only in the first."""
    found = []
    for (i, first), (j, second) in itertools.combinations(enumerate(sessions), 2):
        own = tuple((j, place) for place, concept in enumerate(second.concepts) if concept not in first.concepts)
        if first.concepts and own:
            found.append((_places(i, first), own))
    return found


def _sizes_of_two(first: int, second: int) -> range:
    return range(2, min(MOST_CONCEPTS, first + second) + 1)


def _single(concepts: int) -> int:
    return sum(math.comb(concepts, size) for size in range(1, MOST_CONCEPTS + 1))


def _double(first: int, second: int) -> int:
    return sum(_double_of_size(first, second, size) for size in _sizes_of_two(first, second))


def _double_of_size(first: int, second: int, size: int) -> int:
    return math.comb(first + second, size) - math.comb(first, size) - math.comb(second, size)
