"""Engine ``megatron``: scores with a Megatron-Core checkpoint under any layout of ranks; does not generate.

``generation.model`` names the checkpoint. Requests gather while the ranks are busy with earlier ones; then all that are
waiting are sorted by length and batched together, so the more are in flight, the less is padded. Each is answered as
soon as its micro-batch is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.inference.engine import Engine, EngineError
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.training.scoring.ranks import ScoringRanks
from megatron_ipt.training.scoring.texts import Text, check_request

_SCORE_WINDOW_PER_COPY = 1024
"""Texts in flight for each copy of the model; they are only ids, and more of them waste less padding."""

_Waiting = tuple[Text, "asyncio.Future[float]"]


class MegatronEngine(Engine):
    """See the module."""

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        super().__init__(settings, tokenizer)
        config: MegatronConfig = settings.own or MegatronConfig()
        if not settings.generation.model:
            raise RecipeError(f"{settings.key('generation.model')}: is empty; name the folder of a checkpoint")
        self._ranks = ScoringRanks(settings.generation.model, config, prefix=settings.key("megatron."))
        self.score_window = _SCORE_WINDOW_PER_COPY * (config.ranks() // config.ranks_per_copy())
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._in_flight: list[_Waiting] = []
        self._failure: BaseException | None = None

    async def __aenter__(self) -> MegatronEngine:
        # On Linux the ranks end with the thread that starts them, which is this one and lives as long as they do.
        self._thread = ThreadPoolExecutor(1, "megatron scoring")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ranks.start)
        except BaseException:
            # Cancelled, or the ranks did not start, in which case none are left.
            self._ranks.kill()
            self._thread.shutdown(wait=True)
            raise
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._worker.cancel()
        end = self._ranks.close
        if any(not future.done() for _, future in self._in_flight):
            # Whoever asked was cancelled, too, and does not wait for the answers.
            self._ranks.kill()
            end = self._ranks.terminate
        await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown(wait=True)

    @property
    def longest_score(self) -> int:
        """Maximum tokens of a text: the last one is only predicted and takes no position of the model."""
        return min(self.settings.generation.context_length, self._ranks.limits.positions + 1)

    async def score(self, request: ScoreRequest) -> Score:
        """See the base class. A sum that is NaN or infinite is returned as it is: the caller knows which text it is."""
        text = check_request(request, self._ranks.limits, "score request")
        self.check_length(request)
        if not text.length:
            return Score(0.0, 0)
        if self._failure is not None:
            raise EngineError(str(self._failure)) from self._failure
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        self._wake.set()
        return Score(await future, int(text.counted.sum()))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            # Requests that belong together arrive within one turn of the loop; wait for them.
            await asyncio.sleep(0.002)
            self._wake.clear()
            self._in_flight = batch = [waiting for waiting in self._waiting if not waiting[1].done()]
            self._waiting = []
            if not batch:
                continue
            try:
                await loop.run_in_executor(self._thread, self._score, batch, loop)
            except Exception as error:
                self._failure = error
                for _, future in (*batch, *self._waiting):
                    if not future.done():
                        future.set_exception(EngineError(str(error)))
                return

    def _score(self, batch: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        for indices, sums in self._ranks.sums([text for text, _ in batch]):
            for index, total in zip(indices, sums):
                loop.call_soon_threadsafe(_resolve, batch[index][1], float(total))


def _resolve(future: asyncio.Future[float], value: float) -> None:
    if not future.done():
        future.set_result(value)
