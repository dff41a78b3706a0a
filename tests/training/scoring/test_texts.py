"""From requests to micro-batches and back, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.training.scoring.texts import (
    Limits,
    Text,
    check_request,
    check_requests,
    collate,
    plan,
    scores,
    work_items,
)

LIMITS = Limits(vocab_size=10, positions=6)


def text(length: int) -> Text:
    return Text(np.arange(length + 1, dtype=np.int32) if length else np.empty(0, np.int32), np.ones(length, np.bool_))


def test_a_text_is_cut_after_its_last_counted_token():
    found = check_request(ScoreRequest([5, 6, 7, 8, 9], [True, True, False, True, False]), LIMITS, "it")
    assert found.ids.tolist() == [5, 6, 7, 8]
    # The flag of the first id is ignored: nothing precedes it.
    assert found.counted.tolist() == [True, False, True]


@pytest.mark.parametrize("request_", [ScoreRequest([3]), ScoreRequest([3, 4], [True, False])])
def test_a_text_without_counted_tokens_scores_zero(request_):
    texts = check_requests([request_], LIMITS)
    assert plan(texts, 100) == []
    assert scores(texts, np.zeros(1)) == [Score(0.0, 0)]


def test_the_last_id_takes_no_position():
    assert check_request(ScoreRequest([1] * 7), LIMITS, "it").length == 6


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "request 1: no token ids; leave empty texts out"),
        ([1, 2, 10], "request 1: id 10 at position 2 is outside the vocabulary of 10"),
        ([1, -1], "request 1: id -1 at position 1 is outside the vocabulary"),
        ([1.5, 2.0], "request 1: token ids are integers, found float64"),
        ([[1, 2]], r"request 1: expected one list of token ids, found an array of shape \[1, 2\]"),
        ([[1], [2, 3]], "request 1: token ids cannot be read as an array"),
        ([1] * 8, "request 1: the model would have to read 7 tokens and has 6 positions; cut the text into "
                        "windows of at most 7 ids"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_named(ids: Any, message: str):
    with pytest.raises(InputError, match=message):
        check_requests([ScoreRequest([1, 2]), ScoreRequest(ids)], LIMITS)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.lists(strategies.integers(0, 60), max_size=60), strategies.integers(1, 300))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int):
    texts = [text(length) for length in lengths]
    batches = plan(texts, budget)
    assert sorted(index for batch in batches for index in batch) == [i for i, length in enumerate(lengths) if length]
    widths = [max(lengths[index] for index in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(batches, widths):
        assert len(batch) == 1 or len(batch) * width <= budget


@pytest.mark.parametrize("budget", [4096, 16384])
def test_less_than_five_percent_is_padding(budget: int):
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.0, 0.8, 2000), 5, 1024).astype(int)
    batches = plan([text(length) for length in lengths], budget)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert lengths.sum() / padded > 0.95


def test_a_large_batch_takes_only_texts_of_similar_length():
    # 2 x 100 tokens are an eighth of 1,600: 93 still joins, 92 does not, although all would fit.
    assert plan([text(length) for length in (100, 100, 93, 92, 92)], 1600) == [[0, 1, 2], [3, 4]]
    # 1 x 100 tokens are less.
    assert plan([text(length) for length in (100, 80)], 1600) == [[0, 1]]


def test_padding_is_at_the_end_and_does_not_count():
    batch = collate([text(3), text(1)], multiple_of=4)
    assert batch.tokens.tolist() == [[0, 1, 2, 0], [0, 0, 0, 0]]
    assert batch.labels.tolist() == [[1, 2, 3, 0], [1, 0, 0, 0]]
    assert batch.counted.tolist() == [[True, True, True, False], [True, False, False, False]]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.integers(0, 200), strategies.integers(1, 5), strategies.integers(1, 4))
def test_portions_cover_all_batches_in_order(batches: int, copies: int, stages: int):
    portions = list(work_items(batches, copies, stages))
    assert [index for portion in portions for index in portion] == list(range(batches))
    assert all(1 <= len(portion) <= (8 * stages if stages > 1 else 1) for portion in portions)
    assert len(portions) >= min(copies, batches)


@pytest.mark.parametrize("wrong", [np.nan, -np.inf, np.inf])
def test_a_wrong_sum_is_named_by_its_request(wrong: float):
    with pytest.raises(StageError, match=r"request 1 \(and 1 more of 3\): the model gave a log-likelihood of"):
        scores([text(1)] * 3, np.array([-1.0, wrong, wrong]))
    with pytest.raises(StageError, match="request 2: the model gave"):
        scores([text(1)] * 3, np.array([-1.0, -1.0, wrong]))
