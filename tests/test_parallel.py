from __future__ import annotations

import os
import signal

import pytest

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.parallel import map_shards, share_of


def square(number: int, add: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError("negative")
    return number * number + add, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_shard_once(workers):
    results = dict(map_shards(square, [1, 2, 3], (10,), workers))
    assert {shard: value for shard, (value, _) in results.items()} == {1: 11, 2: 14, 3: 19}
    assert (os.getpid() in {pid for _, pid in results.values()}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_raised_here(workers):
    with pytest.raises(ValueError, match="negative"):
        list(map_shards(square, [1, -1, 2], (0,), workers))


def test_shares_are_disjoint_and_complete():
    shares = [share_of("abcdefg", (index, 3)) for index in range(3)]
    assert shares == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert share_of("ab", None) == ["a", "b"]
    with pytest.raises(RecipeError, match=r"--shard 3/3: expected i/N"):
        share_of("abc", (3, 3))


def end_here(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_an_error_that_says_so():
    with pytest.raises(StageError, match="process"):
        list(map_shards(end_here, [1, 2, 3], (), 2))
