"""Speed with a given number of chains in flight, measured while the engine is kept busy: no warm-up, no drain.

Chains follow one another without a pause; to change their number, more are started as others end, so that they do not
run in step. When all that were in flight before have ended, a cohort of the next chains is timed from begin to end,
however long each takes. With W chains always in flight, W divided by the mean time of a chain is the number of chains
per second (Little's law).

The means of two cohorts differ also because their answers happen to differ in length. So the time of a chain is
regressed on its tokens, and the mean is taken at the mean length over all cohorts (a control variate): a few dozen
chains are enough for two or three percent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from megatron_ipt.errors import StageError
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain
from megatron_ipt.synthesis.spending.trial import Asked

_LEAST_CHAINS = 24
_PRECISE = 0.015
"""Standard error of a speed with which a cohort is large enough."""
_MOST_TURNS = 4
"""Times that every place in the window is timed, at most."""


@dataclass(frozen=True)
class Cohort:
    """Chains that were timed.

    Attributes:
        window: chains in flight meanwhile.
        chains: what became of each.
    """

    window: int
    chains: Sequence[Asked]

    @property
    def mean_tokens(self) -> float:
        """Tokens that the engine had to compute for a chain."""
        return sum(map(_tokens, self.chains)) / len(self.chains)

    @property
    def mean_seconds(self) -> float:
        """From begin to end of a chain."""
        return sum(chain.seconds for chain in self.chains) / len(self.chains)

    def speed(self, mean_tokens: float) -> float:
        """Chains per second if chains had ``mean_tokens`` tokens on average."""
        slope, _ = self._line()
        seconds = self.mean_seconds + slope * (mean_tokens - self.mean_tokens)
        # A few chains may give any slope; a time is never below half of what was seen.
        return self.window / max(seconds, self.mean_seconds / 2)

    @property
    def relative_error(self) -> float:
        """Standard error of the speed, as a fraction of it."""
        _, residuals = self._line()
        n = len(self.chains)
        if n < 3:
            return math.inf
        return math.sqrt(residuals / (n - 2) / n) / max(self.mean_seconds, 1e-9)

    def _line(self) -> tuple[float, float]:
        """Slope of the time over the tokens, and the sum of the squared residuals."""
        tokens, seconds = self.mean_tokens, self.mean_seconds
        spread = sum((_tokens(chain) - tokens) ** 2 for chain in self.chains)
        products = sum((_tokens(chain) - tokens) * (chain.seconds - seconds) for chain in self.chains)
        slope = products / spread if spread else 0.0
        return slope, sum((chain.seconds - seconds - slope * (_tokens(chain) - tokens)) ** 2 for chain in self.chains)


def _tokens(chain: Asked) -> int:
    return chain.usage.generated_tokens


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
        self._timed: list[Asked] = []
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
        before = len(self._tasks)
        self._target = window
        self._starts_per_end = max(1, math.ceil(window / max(before, 1)))
        if not before:
            self._start(window)
        try:
            await self._until(lambda: len(self._tasks) == window, deadline)
            settled = self._ended + window
            await self._until(lambda: self._ended >= settled, deadline)
            self._timed = []
            size = max(_LEAST_CHAINS, window)
            while True:
                self._to_time = size - len(self._timed)
                await self._until(lambda: not self._to_time and not self._timing, deadline)
                cohort = Cohort(window, list(self._timed))
                if cohort.relative_error <= _PRECISE or size >= max(_MOST_TURNS * window, 2 * _LEAST_CHAINS):
                    return cohort
                size += max(_LEAST_CHAINS // 2, window // 2)
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
        try:
            asked = await self._ask(chain)
            self.asked += asked.usage.answers
            if timed:
                self._timed.append(asked)
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
