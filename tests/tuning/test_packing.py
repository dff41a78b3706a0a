from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from megatron_ipt.tuning.packing import pack


def test_fills_the_row_with_the_least_room() -> None:
    # 6 opens a row (4 left), 8 another (2 left); 2 goes where it fits exactly, 4 fills the first.
    assert list(pack([6, 8, 2, 4, 10], 10, range(5))) == [[0, 3], [1, 2], [4]]


def test_closes_the_fullest_row_when_too_many_are_open() -> None:
    assert list(pack([5, 6, 7, 5], 10, range(4), window=2)) == [[1], [0, 3], [2]]


@given(
    st.lists(st.integers(1, 40), max_size=60), st.integers(40, 50), st.integers(1, 8), st.randoms(use_true_random=False)
)
def test_every_example_is_in_one_row_and_no_row_is_too_long(lengths, capacity, window, random) -> None:  # type: ignore[no-untyped-def]
    order = random.sample(range(len(lengths)), len(lengths))
    rows = list(pack(lengths, capacity, order, window))
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[number] for number in row) <= capacity for row in rows)
    assert rows == list(pack(lengths, capacity, order, window))


def test_fills_rows_well() -> None:
    generator = np.random.default_rng(1)
    lengths = np.minimum(generator.lognormal(5, 0.8, 20_000).astype(int) + 8, 2048).tolist()
    rows = list(pack(lengths, 2049, range(len(lengths))))
    assert sum(lengths) / (2049 * len(rows)) > 0.98


def test_example_longer_than_a_row() -> None:
    with pytest.raises(ValueError, match="example 1 has 11 tokens, more than the 10 of a row"):
        list(pack([5, 11], 10, range(2)))
