"""Paragraphs, contexts, gains and weights against what a person worked out, and a plain implementation beside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from megatron_ipt.composition.contexts import assemble, fitting, in_order, random_neighbours
from megatron_ipt.composition.gain import alone_request, blend_weights, gain, joined_request, threshold_of
from megatron_ipt.composition.paragraphs import join_lines, paragraphs_of
from megatron_ipt.composition.search import NONE


@pytest.mark.parametrize(
    ("lines", "tokens", "expected"),
    [
        (["a", "b", "c"], [5, 4, 3], [[0], [1, 2]]),
        (["a", "b", "c"], [4, 4, 1], [[0], [1, 2]]),
        (["now:", "b", "c"], [3, 30, 2], [[0, 1], [2]]),
        (["who?", "b", "c"], [3, 30, 2], [[0, 1], [2]]),
        (["a"], [40], [[0]]),
        ([], [], []),
    ],
)
def test_lines_are_joined_below_the_limit(lines: list[str], tokens: list[int], expected: list[list[int]]) -> None:
    assert join_lines(lines, tokens, 12) == expected


def test_paragraphs_are_one_line_without_empty_ones() -> None:
    def encode(texts: list[str]) -> list[list[int]]:
        return [list(range(len(text.split()))) for text in texts]

    made = paragraphs_of(["one two\n\n  three  \nfour five six seven eight nine", "", "ten"], encode, 9)
    assert made == [["one two three", "four five six seven eight nine"], [], ["ten"]]


@pytest.mark.parametrize(("query", "fit"), [(254, 3), (255, 2)])
def test_as_many_neighbours_as_stay_below_1024(query: int, fit: int) -> None:
    """A query of 254 and a line break, neighbours of 300 that are cut to 255 and one: 255 + 3 x 256 = 1,023."""
    lengths = np.minimum(np.array([query, 300, 300, 300, 300, 300]), 255) + 1
    neighbours = np.array([[1, 2, 3, 4, 5]])
    taken = assemble(np.array([0]), neighbours, np.zeros((1, 5)), lengths, 1024, 16)
    assert taken[0, :fit].tolist() == [1, 2, 3][:fit] and (taken[0, fit:] == NONE).all()
    assert fitting(0, [1, 2, 3, 4, 5], lengths, 1024) == [1, 2, 3][:fit]


def test_a_neighbour_that_does_not_fit_closes_the_context() -> None:
    lengths = np.array([10, 5, 80, 5])
    taken = assemble(np.array([0]), np.array([[1, 2, 3]]), np.zeros((1, 3)), lengths, 50, 3)
    assert taken.tolist() == [[1, NONE, NONE]]


def test_the_nearest_queries_get_a_paragraph_that_many_want() -> None:
    """Paragraph 9 may occur twice; queries 1 and 3 are nearest, and the others go on to their next neighbour."""
    queries = np.array([0, 1, 2, 3])
    neighbours = np.array([[9, 8], [9, 8], [9, 8], [9, 7]])
    nearness = np.array([[0.5, 0.1], [0.9, 0.2], [0.5, 0.3], [0.7, 0.4]])
    taken = assemble(queries, neighbours, nearness, np.ones(10, np.int64), 100, 2, most_uses=2)
    # 8 is wanted by 0, 1 and 2: 2 (0.3) and 1 (0.2) get it.
    assert taken.tolist() == [[NONE, NONE], [9, 8], [8, NONE], [9, 7]]
    reversed_ = assemble(queries[::-1], neighbours[::-1], nearness[::-1], np.ones(10, np.int64), 100, 2, 2)
    assert reversed_[::-1].tolist() == taken.tolist()


def plain(queries, neighbours, nearness, lengths, seq_length, most, cap):  # type: ignore[no-untyped-def]
    """The same one by one: round after round, the nearest query first."""
    taken = {query: [] for query in queries}
    closed, uses = set(), dict.fromkeys(range(len(lengths)), 0)
    for rank in range(len(neighbours[0])):
        asking = []
        for place, query in enumerate(queries):
            wanted = neighbours[place][rank]
            if query in closed or wanted == NONE or len(taken[query]) == most or uses[wanted] >= cap:
                continue
            if lengths[query] + sum(lengths[other] for other in taken[query]) + lengths[wanted] >= seq_length:
                closed.add(query)
                continue
            asking.append((-nearness[place][rank], query, wanted))
        for _, query, wanted in sorted(asking):
            if uses[wanted] < cap:
                taken[query].append(wanted)
                uses[wanted] += 1
    return [taken[query] + [NONE] * (most - len(taken[query])) for query in queries]


@given(st.data())
def test_contexts_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    count, k = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 6))
    numbers = st.integers(0, count - 1)
    neighbours = [data.draw(st.lists(numbers, max_size=k, unique=True)) for _ in range(count)]
    padded = np.array([each + [NONE] * (k - len(each)) for each in neighbours]).reshape(count, k)
    near = [sorted(data.draw(st.lists(st.integers(0, 4), min_size=k, max_size=k)), reverse=True) for _ in range(count)]
    lengths = np.array(data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count)))
    most, cap = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    queries = np.arange(count)
    taken = assemble(queries, padded, np.array(near, float), lengths, 40, most, cap)
    assert taken.tolist() == plain(queries.tolist(), padded.tolist(), near, lengths.tolist(), 40, most, cap)


def test_the_query_is_last_and_the_nearest_beside_it() -> None:
    assert in_order(9, [1, 2, 3], "nearest_last", 7, "x") == [3, 2, 1, 9]
    shuffles = {tuple(in_order(9, [1, 2, 3], "shuffled", seed, "x")) for seed in range(60)}
    assert len(shuffles) == 6 and all(each[-1] == 9 for each in shuffles)
    assert in_order(9, [1, 2, 3], "shuffled", 7, "x") == in_order(9, [1, 2, 3], "shuffled", 7, "x")


def test_random_contexts_are_of_other_documents() -> None:
    documents = np.array([0, 0, 1, 1, 2, 2])
    allowed = np.array([0, 1, 2, 3, 5])
    drawn = {tuple(sorted(random_neighbours(seed, "q", 0, 3, documents, allowed))) for seed in range(20)}
    assert drawn == {(2, 3, 5)}
    assert len(random_neighbours(1, "q", 0, 5, documents, allowed)) == 3
    assert random_neighbours(1, "q", 0, 2, documents, allowed) == random_neighbours(1, "q", 0, 2, documents, allowed)


def test_gain_of_the_worked_example() -> None:
    """Alone [2, 2] and [1, 1], joined [2, 1, x, .5, .5]: x is the first token of the second paragraph."""
    request = joined_request([[7, 7, 7], [8, 8, 8]], None)
    assert request.counted == [1, 2, 4, 5]
    losses = dict(zip(range(1, 6), [2, 1, 99, 0.5, 0.5]))
    joined = sum(losses[place] for place in request.counted)
    assert gain([4.0, 2.0], joined, len(request.counted)) == 0.5
    assert alone_request([7, 7, 7], None).counted == [1, 2]
    # A BOS token makes no first token predictable.
    assert alone_request([7, 7, 7], 1).counted == [2, 3]
    assert joined_request([[7, 7, 7], [8, 8, 8]], 1).counted == [2, 3, 5, 6]
    assert math.isnan(gain([0.0], 0.0, 0))


def test_random_contexts_set_the_threshold() -> None:
    random = [0.1, 0.4, 0.2, 0.3]
    for share, above in ((0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)):
        cut = threshold_of(random, share)
        assert sum(value > cut for value in random) == above
    assert threshold_of([-0.3, -0.2], 0.5) == 0.0
    assert threshold_of([], 0.5) == 0.0


def test_weights_for_half_of_the_tokens() -> None:
    contexts, documents = blend_weights(0.81, 0.5)
    assert contexts == pytest.approx(1 / 1.81) and round(contexts, 3) == 0.552
    assert contexts * 0.81 == pytest.approx(documents)
    for fill, share in ((0.5, 0.2), (1.0, 0.5), (0.3, 1.0)):
        contexts, documents = blend_weights(fill, share)
        assert contexts + documents == pytest.approx(1)
        assert contexts * fill / (contexts * fill + documents) == pytest.approx(share)
