"""Scores of the engine ``transformers`` against a plain loop in double precision, one text at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.inference.config import TransformersConfig
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import score_all
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Settings = Callable[..., EngineSettings]


def requests(count: int = 40) -> list[ScoreRequest]:
    """Texts of 2 to 200 random tokens, every third with a mask; the last as long as the context."""
    draw = random.Random(2)
    made = []
    for number in range(count):
        ids = [1, *(draw.randrange(3, 600) for _ in range(draw.randrange(1, 200)))]
        mask = [draw.random() < 0.6 for _ in ids] if number % 3 == 0 else None
        made.append(ScoreRequest(ids, mask))
    return [*made, ScoreRequest([1, *(draw.randrange(3, 600) for _ in range(255))])]


def by_hand(folder: Path, asked: list[ScoreRequest]) -> list[Score]:
    """Sums of cross-entropy over a model in fp64, without batches or padding."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    scores = []
    for request in asked:
        with torch.no_grad():
            logits = model(torch.tensor([request.ids])).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(request.ids[1:]), reduction="none")
        kept = [loss.item() for loss, counts in zip(losses, (request.mask or [True] * len(request.ids))[1:]) if counts]
        scores.append(Score(-sum(kept), len(kept)))
    return scores


@pytest.fixture
def scored(engine_settings: Settings, random_model: Path) -> Callable[..., list[Score]]:
    def work(asked: list[ScoreRequest], window: int | None = None, **own: Any) -> list[Score]:
        settings = engine_settings("transformers", TransformersConfig(device="cpu", **own), model=str(random_model))
        return score_all(open_engine(settings), asked, window)

    return work


@pytest.mark.parametrize("tokens", [1, 300, 100_000], ids=["one by one", "small batches", "one batch"])
def test_equal_an_independent_computation(scored: Callable[..., list[Score]], random_model: Path, tokens: int) -> None:
    asked = requests()
    for score, expected in zip(scored(asked, score_tokens=tokens), by_hand(random_model, asked), strict=True):
        assert score.tokens == expected.tokens
        # A random model of this spread is wrong with conviction: sums are of the order of a thousand nats.
        assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5, abs=1e-5)


def test_scores_are_far_from_uniform(scored: Callable[..., list[Score]]) -> None:
    """The comparison above would mean little for a model that gives every token the same probability."""
    (score,) = scored([requests()[-1]])
    assert score.tokens == 255
    assert score.log_likelihood < -1.1 * 255 * math.log(600)


def test_bf16_is_close(scored: Callable[..., list[Score]], random_model: Path) -> None:
    asked = requests(6)
    for score, expected in zip(scored(asked, dtype="bfloat16"), by_hand(random_model, asked), strict=True):
        assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=0.02, abs=1)


def test_what_needs_no_model(scored: Callable[..., list[Score]]) -> None:
    asked = [ScoreRequest([]), ScoreRequest([1]), ScoreRequest([1, 5, 6], [True, False, False])]
    assert scored(asked) == [Score(0.0, 0)] * 3


def test_too_long_names_the_key(scored: Callable[..., list[Score]]) -> None:
    with pytest.raises(InputError, match=r"257 tokens is longer than the 256.*score\.generation\.context_length"):
        scored([ScoreRequest([5] * 257)])


@pytest.mark.parametrize("budget", [600, 8192])
def test_batches_are_of_similar_length(
    scored: Callable[..., list[Score]], monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Less than 5 % of what the model computes on is padding."""
    computed: list[int] = []
    forward = transformers.LlamaForCausalLM.forward

    def watched(self: Any, input_ids: Any = None, **more: Any) -> Any:
        computed.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", watched)
    asked = requests(600)
    scored(asked, score_tokens=budget)
    assert max(computed) <= budget
    assert sum(len(request.ids) for request in asked) > 0.95 * sum(computed)
