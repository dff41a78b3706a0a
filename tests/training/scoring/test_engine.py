"""The engine ``megatron``: concurrent requests, errors of one and of all, and its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.config import GenerationConfig, MegatronConfig
from megatron_ipt.inference.engine import EngineError, Prompt, Request
from megatron_ipt.inference.engines import load_engine, open_engine
from megatron_ipt.inference.run import score_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings

from .conftest import POSITIONS, make_requests, transformers_scores
from .test_ranks import assert_all_end, workers

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="scoring needs Megatron-Core")
pytestmark = pytest.mark.slow

Models = Callable[..., tuple[Path, Path]]


def engine(checkpoint: Path | str, generation: dict[str, Any] | None = None, **own: Any) -> Any:
    settings = EngineSettings(
        "megatron",
        GenerationConfig(model=str(checkpoint), **(generation or {})),
        MegatronConfig(precision="fp32", batch_tokens=200, **own),
        prefix="score",
        scoring=True,
    )
    tokenizer: Any = SimpleNamespace(eos_id=2)
    return open_engine(settings, tokenizer)


def test_scores_are_those_of_transformers_in_the_order_of_the_requests(models: Models) -> None:
    folder, checkpoint = models("llama")
    requests = make_requests()
    found = score_all(engine(checkpoint, nproc=2), requests, window=7)
    expected = transformers_scores(folder, requests)
    assert [score.tokens for score in found] == [tokens for _, tokens in expected]
    assert [score.log_likelihood for score in found] == pytest.approx([total for total, _ in expected], rel=1e-5)
    assert not workers()


def test_a_request_that_cannot_be_scored_does_not_disturb_the_others(models: Models) -> None:
    async def run() -> list[Any]:
        async with engine(models("llama")[1]) as opened:
            asked = [ScoreRequest([1, 2, 3]), ScoreRequest([1, 50]), ScoreRequest([1] * (POSITIONS + 2))]
            asked += [ScoreRequest([1, 2, 3])]
            return list(await asyncio.gather(*(opened.score(request) for request in asked), return_exceptions=True))

    first, outside, long, second = asyncio.run(run())
    assert isinstance(outside, InputError) and "id 50 at position 1 is outside the vocabulary" in str(outside)
    assert isinstance(long, InputError) and "would have to read 65 tokens and has 64 positions" in str(long)
    assert isinstance(first, Score) and first == second


def test_it_scores_and_says_by_name_that_it_does_not_generate(models: Models) -> None:
    found = load_engine("megatron")
    assert found.scores() and not found.generates()
    opened = engine(models("llama")[1])
    request = Request(Prompt([1, 2], "x"), Sampling(max_new_tokens=4))
    with pytest.raises(RecipeError, match=r"score\.engine: the engine megatron does not generate"):
        asyncio.run(opened.generate(request))


def test_the_longest_text_is_bounded_by_the_model_and_by_the_recipe(models: Models) -> None:
    checkpoint = models("llama", max_position_embeddings=512)[1]
    assert engine(checkpoint).longest_score == 513
    short = engine(checkpoint, {"context_length": 200, "max_new_tokens": 1})
    assert short.longest_score == 200
    with pytest.raises(InputError, match=r"score\.generation\.context_length = 200"):
        asyncio.run(short.score(ScoreRequest([1] * 201)))


def test_settings_are_named_as_in_the_recipe(models: Models, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"score\.megatron\.tensor_model_parallel_size: 3 does not divide"):
        engine(models("llama")[1], tensor_model_parallel_size=3)
    with pytest.raises(RecipeError, match=r"score\.generation\.model: is empty"):
        engine("")
    with pytest.raises(InputError, match="no checkpoint found"):
        engine(tmp_path)


def test_a_rank_that_dies_fails_every_request(models: Models) -> None:
    async def run() -> list[Any]:
        async with engine(models("llama")[1]) as opened:
            for worker in workers():
                worker.send_signal(signal.SIGKILL)
            waiting = [opened.score(request) for request in make_requests(8) * 2]
            return [*await asyncio.gather(*waiting, return_exceptions=True)]

    found = asyncio.run(run())
    # A text without counted tokens needs no rank.
    assert found[0] == Score(0.0, 0)
    assert all(isinstance(error, EngineError) and "exited without an error" in str(error) for error in found[1:7])
    assert not workers()


@pytest.mark.parametrize("seconds", [0.5, None], ids=["while it starts", "at work"])
def test_cancelling_leaves_no_ranks(seconds: float | None, models: Models) -> None:
    started: list[Any] = []

    async def run() -> None:
        async with engine(models("llama")[1], nproc=2) as opened:
            started.extend(workers())
            work = [opened.score(ScoreRequest([1, 2, 3] * 20)) for _ in range(3000)]
            await asyncio.wait_for(asyncio.gather(*work), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(run(), seconds))
    assert len(started) == (0 if seconds else 2)
    assert_all_end(started)
    assert not workers()
