"""Draws of concepts: how many there are, that none comes twice, and that they follow the law they claim."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.synthesis.from_taxonomy.outline import draws
from megatron_ipt.synthesis.from_taxonomy.outline.draws import Session, draw, possible


def session(name: str, concepts: str) -> Session:
    return Session(name, tuple(concepts))


@pytest.mark.parametrize(
    ("sessions", "single", "double"),
    [
        ([session("A", "abcd")], 15, 0),
        ([session("A", "abcd"), session("B", "xyz")], 15 + 7, 97),
        ([session("A", "pqs"), session("B", "qt")], 7 + 3, 7),
        ([session("A", "ab"), session("B", "ab")], 3 + 3, 0),
        ([session("A", ""), session("B", "x")], 1, 0),
        ([], 0, 0),
        ([Session(str(i), tuple(f"{i}-{j}" for j in range(5))) for i in range(20)], 620, 109_250),
    ],
)
def test_how_many_there_are(sessions: list[Session], single: int, double: int) -> None:
    assert possible(sessions) == (single, double)


@st.composite
def syllabi(choose: st.DrawFn) -> list[Session]:
    sizes = choose(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    names = choose(st.lists(st.sampled_from("abcdefghij"), min_size=sum(sizes), max_size=sum(sizes)))
    concepts = iter(names)
    return [
        Session(f"S{number}", tuple(dict.fromkeys(itertools.islice(concepts, size))))
        for number, size in enumerate(sizes)
    ]


@given(syllabi(), st.integers(0, 300), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_draw_comes_twice_and_all_are_allowed(
    sessions: list[Session], number: int, two_share: float, rejecting: bool
) -> None:
    singles, doubles = possible(sessions)
    if rejecting:
        # As it is called: with a share of 0 where nothing can be drawn from two sessions, and for few of many draws.
        share = two_share if doubles else 0.0
        number = min(number, draws.reachable(sessions, share) // 4, 20)
        found = draws._rejecting(sessions, number, share, random.Random(3))
    else:
        found = draw(sessions, number, two_share, random.Random(3))
    assert len(set(found)) == len(found) <= number
    if not rejecting:
        there_are = (singles if two_share < 1 or not doubles else 0) + (doubles if two_share > 0 else 0)
        assert len(found) == min(number, there_are)
    for drawn in found:
        places = drawn.sessions
        assert len(places) in (1, 2) and list(places) == sorted(set(places))
        assert len(set(drawn.concepts(sessions))) == len(drawn.places) <= 5
        concepts = drawn.concepts(sessions)
        if len(places) == 1:
            assert set(concepts) <= set(sessions[places[0]].concepts)
        else:
            first, second = (set(sessions[place].concepts) for place in places)
            assert len(concepts) >= 2
            assert set(concepts) & first and set(concepts) & (second - first)


@pytest.mark.parametrize("method", [draws._weighted, draws._rejecting])
def test_session_then_size_then_set_each_uniformly(method: object) -> None:
    """Of the first draws: a third of the sessions, half of the sizes; sets of two from four are a sixth of these."""
    sessions = [session("A", "abcd"), session("B", "xy"), session("C", "m")]
    first = Counter(method(sessions, 1, 0.5, random.Random(seed))[0] for seed in range(6000))  # type: ignore[operator]
    by_sessions: Counter[int] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for drawn, count in first.items():
        by_sessions[len(drawn.sessions)] += count
        if len(drawn.sessions) == 1:
            sizes[drawn.sessions[0], len(drawn.places)] += count
    assert by_sessions[2] / 6000 == pytest.approx(0.5, abs=0.03)
    for size in (1, 2, 3, 4):
        assert sizes[0, size] / 3000 == pytest.approx(1 / 12, abs=0.02)
    assert sizes[2, 1] / 3000 == pytest.approx(1 / 3, abs=0.03)


def test_one_session_is_drawn_from_alone() -> None:
    found = draw([session("A", "abcd")], 100, 0.5, random.Random(0))
    assert len(found) == 15


def test_the_same_seed_draws_the_same() -> None:
    sessions = [session("A", "abcd"), session("B", "xyz")]
    assert draw(sessions, 9, 0.5, random.Random(5)) == draw(sessions, 9, 0.5, random.Random(5))
    assert draw(sessions, 9, 0.5, random.Random(5)) != draw(sessions, 9, 0.5, random.Random(6))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 496), (1.0, 600), (0.5, 600)])
def test_no_more_is_drawn_than_the_share_allows(share: float, expected: int) -> None:
    """Sixteen sessions of five have 496 draws of one session, and far more of two than are wanted."""
    sessions = [Session(str(i), tuple(f"{i}-{j}" for j in range(5))) for i in range(16)]
    assert possible(sessions)[0] == 496
    found = draw(sessions, 600, share, random.Random(1))
    assert len(set(found)) == expected
    assert draws.reachable(sessions, share) >= expected


def test_a_draw_is_named_by_its_places() -> None:
    """Names could be joined to look like others: here two draws have one text."""
    sessions = [Session("Sums", ("sine", "cosine", "sine + cosine"))]
    labels = {found.label: " + ".join(found.concepts(sessions)) for found in draw(sessions, 99, 0, random.Random(0))}
    assert labels["1.1+1.2"] == labels["1.3"] == "sine + cosine"
    assert len(labels) == 7
