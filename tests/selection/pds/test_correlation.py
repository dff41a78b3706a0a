"""Rank correlation, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from megatron_ipt.selection.pds.correlation import mean_ranks, spearman


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 7.0, 3.0])).tolist() == [3, 1, 3, 5, 3]


def test_by_hand() -> None:
    # Without ties, 1 - 6 (1 + 1 + 0 + 1 + 1) / (5 * 24).
    assert spearman([1, 2, 3, 4, 5], [20, 10, 30, 500, 40]) == pytest.approx(0.8)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, sums of squares 4.5 and 5.
    assert spearman([0, 1, 1, 9], [1, 5, 2, 7]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_no_order_has_no_correlation() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([], []))


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2))
def test_only_the_order_counts(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(values, np.float64) for values in zip(*pairs))
    plain = spearman(first, second)
    assert spearman(np.exp(first), second) == pytest.approx(plain, nan_ok=True)
    assert spearman(second, -first) == pytest.approx(-plain, nan_ok=True)
    assert math.isnan(plain) or abs(plain) <= 1 + 1e-12
