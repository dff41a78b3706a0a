"""An engine whose requests are counted, whatever they are asked for: pairs, samples or measurements.

Engines that send several requests for one call, such as probes and retries, count them themselves (``Engine.meters``);
for all others, a call is a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.usage import Meter

Asked = TypeVar("Asked", Request, ScoreRequest)
Result = TypeVar("Result", Completion, Score)

_SYNC_SECONDS = 1.0


class MeteredEngine(Engine):
    """``engine``, whose requests ``meter`` counts.

    When the meter is exhausted, no further request is sent: the answers that are on their way are awaited, because they
    are paid for, and only then do the requests that wait raise its error.
    """

    def __init__(self, engine: Engine, meter: Meter):
        super().__init__(engine.settings, engine.tokenizer)
        self.window, self.score_window = engine.window, engine.score_window
        self.checks_answers, self.takes_stop_strings = engine.checks_answers, engine.takes_stop_strings
        self.meter = meter
        self.tuned = engine.tuned
        self._engine = engine
        if engine.meters:
            engine.meter = meter
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> MeteredEngine:
        await self._engine.__aenter__()
        self._syncing = asyncio.create_task(self._sync())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._syncing.cancel()
        await asyncio.gather(self._syncing, return_exceptions=True)
        await self._engine.__aexit__(*exception)

    async def generate(self, request: Request) -> Completion:
        completion = await self._counted(self._engine.generate, request)
        if not isinstance(completion, Completion):
            name = type(self._engine).__name__
            raise EngineError(
                f"{self.settings.key('engine')}: generate of {name} returned {completion!r:.80}, which is not a "
                "Completion"
            )
        if not self._engine.meters:
            generated = completion.generated_tokens
            self.meter.answered(
                completion.prompt_tokens,
                completion.cached_tokens,
                len(completion.ids) if generated is None else generated,
            )
        return completion

    async def score(self, request: ScoreRequest) -> Score:
        score = await self._counted(self._engine.score, request)
        if not self._engine.meters:
            self.meter.answered(len(request.ids), 0, 0)
        return score

    @property
    def longest_score(self) -> int:
        return self._engine.longest_score

    def continues(self, request: Request) -> bool:
        return self._engine.continues(request)

    def release(self, chain: int) -> None:
        self._engine.release(chain)

    @property
    def load(self) -> int:
        return self._engine.load

    def set_load(self, value: int) -> int:
        return self._engine.set_load(value)

    def figures(self) -> dict[str, float]:
        return {**self._engine.figures(), **self.meter.figures()}

    async def _counted(self, ask: Callable[[Asked], Awaitable[Result]], request: Asked) -> Result:
        error = self.meter.exhausted()
        if error is not None:
            await self._idle.wait()
            raise error
        self._in_flight += 1
        self._idle.clear()
        try:
            if self._engine.meters:
                return await ask(request)
            self.meter.asked()
            try:
                return await ask(request)
            except RequestRefused:
                self.meter.failed()
                raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            await asyncio.get_running_loop().run_in_executor(None, self.meter.sync)
