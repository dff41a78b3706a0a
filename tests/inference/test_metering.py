"""Requests are counted, whichever engine sends them, and none is sent once the meter is exhausted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Prompt, Request, RequestRefused
from megatron_ipt.inference.metering import MeteredEngine
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.usage import Meter, Usage


class Backwards(Engine):
    """Answers with the prompt backwards; refuses id 9 and never answers id 8."""

    window = 3

    async def generate(self, request: Request) -> Completion:
        if 9 in request.prompt.ids:
            raise RequestRefused("a nine")
        if 8 in request.prompt.ids:
            await asyncio.sleep(3600)
        await asyncio.sleep(0.001 * len(request.prompt.ids))
        return self.completion(request.prompt.ids[::-1], True, len(request.prompt.ids))

    async def score(self, request: ScoreRequest) -> Score:
        return request.score([-1.0] * len(request.counted))


class Wrong(Engine):
    async def generate(self, request: Request) -> Any:
        return None


class Three(Meter):
    """Enough for three answers."""

    def exhausted(self) -> UserError | None:
        return StageError("enough") if self.usage.answers >= 3 else None


def request(*ids: int) -> Request:
    return Request(Prompt(list(ids), ""), Sampling(4))


@pytest.fixture
def engine(engine_settings: Any, tokenizer: Any) -> Engine:
    return Backwards(engine_settings("backwards"), tokenizer)


def test_every_kind_of_end_is_counted(engine: Engine) -> None:
    async def work(metered: MeteredEngine) -> None:
        async with metered:
            await metered.generate(request(5, 6, 7))
            await metered.generate(request(5, 2, 7, 7))  # backwards: 7 7, then EOS
            await metered.score(ScoreRequest([1, 2, 3, 4, 5]))
            with pytest.raises(RequestRefused):
                await metered.generate(request(9))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(metered.generate(request(8)), 0.01)

    meter = Meter()
    metered = MeteredEngine(engine, meter)
    assert metered.window == 3
    asyncio.run(work(metered))
    assert meter.usage == Usage(
        requests=5, answers=3, failures=1, prompt_tokens=3 + 4 + 5, generated_tokens=3 + 3
    ) and meter.usage.unanswered == 1  # fmt: skip


def test_an_exhausted_meter_waits_for_answers_on_their_way(engine: Engine) -> None:
    order: list[str] = []

    async def ask(metered: MeteredEngine, length: int) -> None:
        try:
            await metered.generate(request(*[5] * length))
            order.append(f"answer {length}")
        except StageError as error:
            order.append(str(error))

    async def work(metered: MeteredEngine) -> None:
        tasks = [asyncio.create_task(ask(metered, length)) for length in (1, 2, 3, 60)]
        await asyncio.gather(*tasks[:3])
        await asyncio.gather(ask(metered, 1), ask(metered, 2), tasks[3])

    asyncio.run(work(MeteredEngine(engine, Three())))
    assert order == ["answer 1", "answer 2", "answer 3", "answer 60", "enough", "enough"]


def test_what_is_no_completion_is_named(engine_settings: Any, tokenizer: Any) -> None:
    metered = MeteredEngine(Wrong(engine_settings("wrong"), tokenizer), Meter())
    with pytest.raises(EngineError, match=r"score\.engine: generate of Wrong returned None, which is not a Completion"):
        asyncio.run(metered.generate(request(5)))
