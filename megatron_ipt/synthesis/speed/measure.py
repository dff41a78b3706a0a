"""Speed with a given number of chains in flight, measured while the engine is kept busy: no warm-up, no drain.

Chains follow one another without a pause; to change their number, more are started as others end, so that they do not
run in step. When all that were in flight before have ended, a cohort of the next chains is timed from begin to end,
however long each takes. With W chains always in flight, W divided by the mean time of a chain is the number of chains
per second (Little's law).

The means of two cohorts differ also because the answers happen to differ in length: those of the cohort, and those of
all others, for which a chain waits in the queue of the engine. So the mean is taken as it would be if all chains were
of mean length. How much of the time of a chain is due to its own work follows by regression within the cohort; the rest
is waiting, in proportion to the work of all chains that ended meanwhile, which should be that of W chains of mean
length. A few dozen chains are then enough for one or two percent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from megatron_ipt.errors import StageError
from megatron_ipt.inference.usage import Usage
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain
from megatron_ipt.synthesis.spending.trial import Asked

_LEAST_CHAINS, _MOST_CHAINS = 24, 64
"""Of the first cohort; in between, as many as are in flight."""
_PROMPT_WORK = 0.25
"""Of a token of a prompt that is not cached, compared with a generated one: about that in the cost model of the stage,
:func:`megatron_ipt.synthesis.cost.seconds_per_request`."""
_PRECISE = 0.015
"""Standard error of a speed with which a cohort is large enough."""


@dataclass(frozen=True)
class Timed:
    """A chain that was timed.

    Attributes:
        seconds: from begin to end.
        work: of the engine for this chain, see :func:`work_of`.
        meanwhile: work for all chains that ended until it did, its own included.
    """

    seconds: float
    work: float
    meanwhile: float


def work_of(usage: Usage) -> float:
    """Work of an engine, in generated tokens."""
    return usage.generated_tokens + _PROMPT_WORK * (usage.prompt_tokens - usage.cached_tokens)


@dataclass(frozen=True)
class Cohort:
    """Chains that were timed.

    Attributes:
        window: chains in flight meanwhile.
        chains: in the order in which they ended.
    """

    window: int
    chains: Sequence[Timed]

    @property
    def mean_work(self) -> float:
        """Of a chain."""
        return sum(chain.work for chain in self.chains) / len(self.chains)

    @property
    def mean_seconds(self) -> float:
        """Of a chain."""
        return sum(chain.seconds for chain in self.chains) / len(self.chains)

    def speed(self, mean_work: float) -> float:
        """Chains per second if chains took ``mean_work`` on average."""
        slope, _ = self._line()
        meanwhile = sum(chain.meanwhile for chain in self.chains) / len(self.chains)
        waiting = self.mean_seconds - slope * self.mean_work
        usual = self.window * mean_work / meanwhile if meanwhile else 1.0
        return self.window / max(slope * mean_work + waiting * usual, 1e-9)

    @property
    def relative_error(self) -> float:
        """Standard error of the mean time, as a fraction of it."""
        n = len(self.chains)
        if n < 3:
            return math.inf
        _, residuals = self._line()
        return math.sqrt(residuals / (n - 2) / n) / max(self.mean_seconds, 1e-9)

    def _line(self) -> tuple[float, float]:
        """Seconds per work of a chain itself, and the sum of squared residuals.

        The slope is not negative, nor does it explain more than the whole time: a few chains may suggest anything.
        """
        work, seconds = self.mean_work, self.mean_seconds
        spread = sum((chain.work - work) ** 2 for chain in self.chains)
        products = sum((chain.work - work) * (chain.seconds - seconds) for chain in self.chains)
        slope = min(max(products / spread if spread else 0.0, 0.0), seconds / work if work else 0.0)
        return slope, sum((chain.seconds - seconds - slope * (chain.work - work)) ** 2 for chain in self.chains)


class Pump:
    """Keeps a number of chains in flight.

    Args:
        ask: asks about a chain.
        supply: of chains, without end.
    """

    def __init__(self, ask: Callable[[PlannedChain], Awaitable[Asked]], supply: Iterator[PlannedChain]):
        self._ask = ask
        self._supply = supply
        self._target = 0
        self._starts_per_end = 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_time = 0
        self._timing = 0
        self._timed: list[Timed] = []
        self._work = 0.0
        self._ended = 0
        self._failure: BaseException | None = None
        self._change = asyncio.Event()
        self.asked = 0

    async def measure(self, window: int, deadline: float) -> Cohort | None:
        """Times chains with ``window`` of them in flight.

        Args:
            deadline: by the clock of the event loop.

        Returns:
            The cohort; None if there was not enough time.

        Raises:
            Exception: the first failure of a chain.
        """
        self._timed = []
        before = len(self._tasks)
        self._target = window
        self._starts_per_end = max(1, math.ceil(window / max(before, 1)))
        if not before:
            self._start(window)
        try:
            await self._until(lambda: len(self._tasks) == window, deadline)
            settled = self._ended + math.ceil(window / 2)
            await self._until(lambda: self._ended >= settled, deadline)
            size = max(_LEAST_CHAINS, min(window, _MOST_CHAINS))
            while True:
                self._to_time = size - len(self._timed)
                await self._until(lambda: not self._to_time and not self._timing, deadline)
                cohort = Cohort(window, list(self._timed))
                if cohort.relative_error <= _PRECISE or size >= 2 * max(_LEAST_CHAINS, window):
                    return cohort
                size += _LEAST_CHAINS // 2
        except TimeoutError:
            enough = len(self._timed) >= _LEAST_CHAINS // 2 and not self._to_time
            return Cohort(window, list(self._timed)) if enough else None
        finally:
            self._to_time = 0

    async def stop(self) -> None:
        """Abandons what is in flight."""
        self._target = 0
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, count: int) -> None:
        for _ in range(count):
            timed = self._to_time > 0
            self._to_time -= timed
            self._timing += timed
            task = asyncio.create_task(self._one(next(self._supply), timed))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _one(self, chain: PlannedChain, timed: bool) -> None:
        before = self._work
        try:
            asked = await self._ask(chain)
            self.asked += asked.usage.answers
            work = work_of(asked.usage)
            self._work += work
            if timed:
                self._timed.append(Timed(asked.seconds, work, self._work - before))
        finally:
            self._timing -= timed

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended += 1
        if not task.cancelled():
            self._failure = self._failure or task.exception()
            if self._failure is None:
                self._start(min(self._starts_per_end, max(0, self._target - len(self._tasks))))
        self._change.set()

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        clock = asyncio.get_running_loop().time
        while not condition():
            if self._failure is not None:
                raise self._failure
            if not self._tasks:
                raise StageError("synthesis: no chain is in flight")
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), deadline - clock())
            except asyncio.TimeoutError as error:
                raise TimeoutError from error
        if self._failure is not None:
            raise self._failure
