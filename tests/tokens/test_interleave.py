from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.tokens.dataset.interleave import Stretch, interleave

lengths_of_sources = st.lists(
    st.lists(st.integers(1, 50), max_size=30).map(lambda values: np.array(values, np.int32)), min_size=1, max_size=4
)


def mixed(lengths, shares=None, repeats=None, stretch=10**9):
    """[(source, document)] of the whole mix, from sources that come in pieces of ``stretch`` documents."""
    repeats = repeats or [1] * len(lengths)

    def stretches(length, repeat):
        for _ in range(repeat):
            for start in range(0, len(length), stretch):
                yield Stretch(length[start : start + stretch], start)

    totals = [int(length.sum()) * repeat for length, repeat in zip(lengths, repeats)]
    order = []
    for block in interleave([stretches(*pair) for pair in zip(lengths, repeats)], totals, shares):
        following = [
            None if taken is None else iter(range(taken[0].place + taken[1], taken[0].place + taken[2]))
            for taken in block.taken
        ]
        order += [(source, next(following[source])) for source in block.order.tolist()]
        assert all(rest is None or next(rest, None) is None for rest in following)
    return order


def tokens_of(order, lengths):
    return [sum(int(lengths[s][d]) for s, d in order if s == source) for source in range(len(lengths))]


def test_two_equal_sources_alternate():
    assert mixed([np.array([4, 4]), np.array([4, 4])]) == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_worked_by_hand():
    # Shares 1/4 and 3/4. Source 0 has middles at 2/.25 = 8 and 6/.25 = 24; source 1 at 1, 3, 5, ... /.75.
    assert mixed([np.array([4, 4]), np.full(12, 2)]) == [
        (1, 0), (1, 1), (1, 2), (0, 0), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (0, 1), (1, 9), (1, 10), (1, 11)
    ]  # fmt: skip


@settings(deadline=None)
@given(lengths_of_sources)
def test_without_shares_everything_occurs_once_in_order(lengths):
    order = mixed(lengths)
    for source, length in enumerate(lengths):
        assert [d for s, d in order if s == source] == list(range(len(length)))


@settings(deadline=None)
@given(lengths_of_sources, st.integers(1, 3))
def test_repeats(lengths, repeat):
    order = mixed(lengths, repeats=[repeat] * len(lengths))
    for source, length in enumerate(lengths):
        assert [d for s, d in order if s == source] == list(range(len(length))) * repeat


@settings(deadline=None)
@given(lengths_of_sources, st.integers(1, 7), st.booleans())
def test_the_pieces_that_sources_come_in_change_nothing(lengths, stretch, with_shares):
    shares = [1 / len(lengths)] * len(lengths) if with_shares else None
    assert mixed(lengths, shares, stretch=stretch) == mixed(lengths, shares)


def test_shares_hold_everywhere():
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 400, size, dtype=np.int32) for size in (2000, 9000)]
    order = mixed(lengths, [0.5, 0.5], stretch=70)
    taken = np.array([lengths[s][d] for s, d in order])
    first = np.cumsum(np.where(np.array([s for s, _ in order]) == 0, taken, 0))
    # At any point a source is ahead or behind by less than the longest document of each.
    assert np.abs(first - 0.5 * np.cumsum(taken)).max() < 400


def test_the_mix_ends_with_the_first_source_that_runs_out():
    lengths = [np.full(10, 10), np.full(100, 10)]
    assert tokens_of(mixed(lengths, [0.5, 0.5], stretch=3), lengths) == [100, 100]


def test_a_share_of_nothing_leaves_out_everything():
    lengths = [np.full(3, 10), np.full(2, 10)]
    assert tokens_of(mixed(lengths, [1.0, 0.0]), lengths) == [30, 0]


@pytest.mark.parametrize("shares", [None, [0.5, 0.5]])
def test_empty_sources(shares):
    nothing = np.zeros(0, np.int32)
    assert mixed([nothing, nothing], shares) == []
    assert len(mixed([nothing, np.full(3, 5)], None)) == 3


def test_documents_without_tokens_have_a_place_too():
    assert mixed([np.array([0, 4, 0]), np.array([4, 0, 4])], stretch=1).count((0, 0)) == 1
    assert len(mixed([np.array([0, 0]), np.array([0])])) == 3
