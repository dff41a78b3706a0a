"""Prompts of rows, which responses a step takes, and what they look like as samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.tuning.rows import Row, RowReader

from .test_training import SEQUENCE, write_rows

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="token data needs Megatron-Core")

from megatron_ipt.training.data.batches import TokenData  # noqa: E402
from megatron_ipt.training.rollouts.generate import Continuation  # noqa: E402
from megatron_ipt.training.rollouts.prompts import Prompts, prompts_of  # noqa: E402
from megatron_ipt.training.rollouts.rounds import Place, Responses, Rounds  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return TokenData.read(write_rows(tmp_path_factory.mktemp("rows") / "tuning", 24, 3))


def test_a_prompt_is_what_stands_before_the_first_learned_token() -> None:
    mask = np.array([0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1], np.bool_)
    row = Row(np.arange(14), mask, np.array([5, 1, 2, 3, 3], np.int32))
    # The second sequence is all learned, the third not at all.
    assert prompts_of(row) == [(0, 2), (8, 1), (11, 2)]


def test_every_pass_has_every_prompt_once_in_an_order_of_its_own(data: TokenData) -> None:
    prompts = Prompts(data, SEQUENCE, 20, seed=5)
    assert len(prompts) == 24 + 6 and prompts.too_long == 0
    passes = [prompts.at(range(first, first + 30)) for first in (0, 30)]
    for found in passes:
        assert len({prompt.name for prompt in found}) == 30
    texts = [Counter(tuple(prompt.ids) for prompt in found) for found in passes]
    assert texts[0] == texts[1] and [p.ids for p in passes[0]] != [p.ids for p in passes[1]]
    assert not {p.name for p in passes[0]} & {p.name for p in passes[1]}
    # Any position is found without those before it, and does not depend on what else is asked for.
    assert Prompts(data, SEQUENCE, 20, seed=5).at([37]) == [passes[1][7]]
    assert Prompts(data, SEQUENCE, 20, seed=6).at(range(30)) != passes[0]
    reader = RowReader(data.train[0].path, data.train[0].loss_mask or "")
    heads = {tuple(reader[row].ids[:length]) for row in range(24) for _, length in prompts_of(reader[row])[:1]}
    assert heads <= set(texts[0])


def test_long_prompts_are_left_out_and_counted(data: TokenData) -> None:
    prompts = Prompts(data, SEQUENCE, 4, seed=5)
    assert len(prompts) + prompts.too_long == 30 and prompts.too_long > 5
    assert max(len(prompt.ids) for prompt in prompts.at(range(len(prompts)))) == 4
    with pytest.raises(InputError, match="none of 30 prompts has at most 1 tokens; raise max_prompt_tokens"):
        Prompts(data, SEQUENCE, 1, seed=5)


def test_plain_text_has_no_prompts(tokens: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: lists no rows with a loss mask"):
        Prompts(TokenData.read(tokens), SEQUENCE, 4, seed=5)


def test_each_epoch_of_a_round_takes_every_response_once() -> None:
    rounds = Rounds(units=12, epochs=3, batch=4)
    assert rounds.steps == 9
    assert [rounds.place(step) for step in (1, 3, 4, 9, 10)] == [
        Place(0, 0, 0), Place(0, 0, 2), Place(0, 1, 0), Place(0, 2, 2), Place(1, 0, 0),
    ]  # fmt: skip
    orders = []
    for epoch in range(6):
        places = [rounds.place(1 + 3 * epoch + part) for part in range(3)]
        orders.append(np.concatenate([rounds.units_of(place, 7) for place in places]).tolist())
        assert sorted(orders[-1]) == list(range(12))
    assert len({tuple(order) for order in orders}) == 6


def responses() -> Responses:
    logs = np.arange(9, dtype=np.float32).reshape(3, 3)
    texts = [
        Continuation(np.array([7, 8, 2]), True, logs),
        Continuation(np.array([9, 9, 9, 9, 9, 9]), False, np.ones((6, 3), np.float32)),
        Continuation(np.array([5]), False, np.zeros((1, 3), np.float32)),
    ]
    return Responses.of(4, [[11, 12], [13], [14, 15, 16]], texts)


def test_samples_predict_the_response_and_nothing_else() -> None:
    found = responses().rows(np.array([2, 0]), 8)
    assert found["tokens"].tolist() == [[14, 15, 16, 0, 0, 0, 0, 0], [11, 12, 7, 8, 0, 0, 0, 0]]
    assert found["labels"].tolist() == [[15, 16, 5, 0, 0, 0, 0, 0], [12, 7, 8, 2, 0, 0, 0, 0]]
    assert found["response_mask"].tolist() == [[0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]]
    assert found["logs"][1, 1:4].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert not found["logs"][1, 4:].any() and not found["logs"][:, 0].any()


def test_responses_survive_a_checkpoint() -> None:
    kept = Responses.from_state_dict(responses().state_dict())
    for name, value in vars(responses()).items():
        assert np.array_equal(getattr(kept, name), value), name
    assert kept.round == 4 and kept.ids.dtype == np.int64 and kept.logs.dtype == np.float32


def test_repetition_counts_sequences_of_four_tokens() -> None:
    found = responses()
    # Six times the same token: three sequences, one of them new.
    assert found.repetition(1) == pytest.approx(2 / 3) and found.repetition(0) == 0
