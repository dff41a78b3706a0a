"""Which rows are kept, against plain sorting; noise against probabilities worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from megatron_ipt.selection import order
from megatron_ipt.selection.rows import hash_of

FEW = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=40)


def sorted_rows(values: list[int]) -> list[int]:
    return sorted(range(len(values)), key=lambda row: (-values[row], row))


@given(FEW, st.integers(0, 45))
def test_the_largest_with_ties_to_the_lower_row(pairs: list[tuple[int, int]], count: int) -> None:
    values = [value for value, _ in pairs]
    flags = order.largest(np.array(values, float), count)
    assert np.flatnonzero(flags).tolist() == sorted(sorted_rows(values)[:count])


@given(FEW, st.integers(0, 100), st.sampled_from([1, 3, 1 << 16]))
def test_the_longest_beginning_within_a_budget(pairs: list[tuple[int, int]], budget: int, few: int) -> None:
    values, weights = [value for value, _ in pairs], [weight for _, weight in pairs]
    expected, total = [], 0
    for row in sorted_rows(values):
        total += weights[row]
        if total > budget:
            break
        expected.append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FEW", few)
        flags = order.beginning(np.array(values, float), np.array(weights, np.int32), budget)
    assert np.flatnonzero(flags).tolist() == sorted(expected)


@pytest.mark.parametrize(("share", "total", "kept"), [(0.57, 100, 57), (0.29, 100, 29), (0.5, 3, 1), (1.0, 7, 7)])
def test_shares_are_decimals(share: float, total: int, kept: int) -> None:
    assert order.floor_of(share, total) == kept


def test_binary_shares_would_lose_a_row() -> None:
    assert int(0.57 * 100) == 56


def test_uniform_numbers_follow_from_seed_and_id_alone() -> None:
    ids = np.array([hash_of(f"document {number}") for number in range(20_000)], np.uint64)
    drawn = order.uniform(7, "test", ids)
    shuffled = np.random.default_rng(0).permutation(len(ids))
    assert (order.uniform(7, "test", ids[shuffled]) == drawn[shuffled]).all()
    assert not (order.uniform(8, "test", ids) == drawn).any()
    assert not (order.uniform(7, "other", ids) == drawn).any()
    assert drawn.min() > 0 and drawn.max() < 1
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by one sample in a thousand.
    distance = np.abs(np.sort(drawn) - (np.arange(len(ids)) + 0.5) / len(ids)).max()
    assert distance < 1.95 / np.sqrt(len(ids))
    assert abs(np.corrcoef(drawn, order.uniform(8, "test", ids))[0, 1]) < 0.03


def test_numbers_at_the_ends_have_logarithms() -> None:
    """A hash with all bits set or none must give neither 1 nor 0."""
    ids = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    keys = order.gumbel_keys(np.zeros(len(ids)), 1.0, order.uniform(0, "test", ids))
    assert np.isfinite(keys).all()
    assert (np.array([(2**52 - 1 + 0.5) * 2.0**-52]) < 1).all()


def test_gumbel_keys_draw_without_replacement_by_weight() -> None:
    """Scores .1, 0 and -.1 at temperature .1, two of three: weights e, 1 and 1/e."""
    draws = 400_000
    ids = np.arange(3 * draws, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = order.gumbel_keys(np.tile([0.1, 0.0, -0.1], draws), 0.1, order.uniform(1, "test", ids)).reshape(draws, 3)
    left_out = keys.argmin(axis=1)
    included = [1 - (left_out == row).mean() for row in range(3)]
    # Four standard deviations are .0032 at most.
    assert included == pytest.approx([0.946615, 0.755272, 0.298114], abs=0.0032)


def test_the_probabilities_of_two_of_three_by_plackett_and_luce() -> None:
    weights = np.exp([1.0, 0.0, -1.0])
    total = weights.sum()
    both = {
        (one, two): weights[one] / total * weights[two] / (total - weights[one])
        for one in range(3)
        for two in range(3)
        if one != two
    }
    included = [sum(share for pair, share in both.items() if row in pair) for row in range(3)]
    assert included == pytest.approx([0.946615, 0.755272, 0.298114], abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30))
def test_rank_correlation_against_pandas_like_ranks(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(each, float) for each in zip(*pairs))
    one, two = (np.array([(v < x).sum() + ((v == x).sum() - 1) / 2 for x in v]) for v in (first, second))
    if one.std() and two.std():
        assert order.spearman(first, second) == pytest.approx(np.corrcoef(one, two)[0, 1])
    else:
        assert order.spearman(first, second) == 0
