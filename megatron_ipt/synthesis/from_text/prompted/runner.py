"""Runs all chains of all shards through one engine, with a bounded number in flight and no barriers.

Every chain is an asyncio task: its next request is sent as soon as the previous one is answered. When a chain ends, the
next one starts, across shard boundaries, so the engine drains only once, at the very end. Reading and tokenizing run
one batch ahead in a thread, and finished shards are written in another; memory is bounded by the window.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.inference.engine import Engine
from megatron_ipt.inference.run import beside, in_thread
from megatron_ipt.inference.segments import check_tokens
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.health import Answer, no_pairs
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.monitor import Monitor
from megatron_ipt.synthesis.from_text.prompted.shard import ShardJob, ShardTask
from megatron_ipt.synthesis.from_text.prompted.styles import described
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain, Synthesizer
from megatron_ipt.synthesis.statistics import REFUSED_TEXTS

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_SYNC_SECONDS = 1.0
_LEAST_TEXTS = 100
"""Number of texts from which the fraction of refused ones is meaningful."""


@dataclass
class _Batch:
    job: ShardJob
    chains: list[PlannedChain]
    skipped_documents: int
    last: bool


class Runner:
    """Makes shards with one engine.

    Args:
        config: section ``synthesis``.
        seed: seed of the recipe.
        directory: folder of the stage.
        prompts: the prompt styles, with the engine's tokenizer.
        engine: the engine, not yet entered.
        identity: gives the identity of a shard, for its journal.
    """

    def __init__(
        self,
        config: SynthesisConfig,
        seed: int,
        directory: Path,
        prompts: StyleMixture,
        engine: Engine,
        identity: Callable[[ShardTask], int],
    ):
        self._config = config
        self._directory = directory
        self._prompts = prompts
        self._engine = engine
        self._identity = identity
        self._synthesizer = Synthesizer(engine, config.filters, seed, prompts.mixed, check_tokens(engine))
        self._window = config.generation.window or engine.window
        self._open: set[ShardJob] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._numbers = itertools.count()

    async def run(self, tasks: list[ShardTask], monitor: Monitor) -> None:
        """Makes every unfinished shard of ``tasks``.

        Raises:
            NoPairsError: the first answers gave no pair.
            UserError: the first failure; chains that finished before it are in the journals.
        """
        self._monitor = monitor
        self._slots = asyncio.Semaphore(self._window)
        planner = ThreadPoolExecutor(1, "planner")
        feed = self._feed(tasks)
        try:
            async with self._engine:
                try:
                    work = self._work_off(feed, planner)
                    await beside(work, (_TICK_SECONDS, self._monitor.tick), (_SYNC_SECONDS, self._sync))
                finally:
                    await _cancel(*self._tasks)
        finally:
            planner.shutdown(wait=True)
            feed.close()
            self._close_all()

    async def _work_off(self, feed: Generator[_Batch, None, None], planner: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        ahead = loop.run_in_executor(planner, next, feed, None)
        try:
            while (batch := await ahead) is not None:
                ahead = loop.run_in_executor(planner, next, feed, None)
                self._monitor.resumed(batch.skipped_documents)
                for chain in batch.chains:
                    await self._slots.acquire()
                    self._raise_failure()
                    self._start(self._one(batch.job, chain))
                if batch.last:
                    self._finish_if_complete(batch.job)
            while self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
                self._raise_failure()
            self._raise_failure()
        finally:
            # Not cancelled: the thread must be done with the generator before that is closed.
            await asyncio.gather(ahead, return_exceptions=True)

    def _feed(self, tasks: list[ShardTask]) -> Generator[_Batch, None, None]:
        """Opens one shard after another and plans its chains; runs in the planner's thread."""
        markers = ShardMarkers(self._directory)
        for task in tasks:
            if markers.counts(task.name) is not None:
                continue
            job = ShardJob(task, self._directory, self._identity(task))
            if markers.counts(task.name) is not None:
                # Another process finished it between the check and the lock.
                job.close()
                continue
            self._open.add(job)
            if not self._monitor.health.proven and job.has_pairs():
                self._monitor.health.proven = True
            previous: _Batch | None = None
            for chains, skipped in job.plan(self._prompts, self._config.chain_length, self._config.passage_characters):
                if previous is not None:
                    yield previous
                previous = _Batch(job, chains, skipped, last=False)
            assert previous is not None
            previous.last = True
            yield previous

    async def _one(self, job: ShardJob, planned: PlannedChain) -> None:
        number = next(self._numbers)
        self._monitor.begun()
        try:
            outcome = await self._synthesizer.synthesize(planned, number, self._watch)
            job.journal.append(planned.index, outcome.dump())
        finally:
            self._engine.release(number)
            self._monitor.ended()
            self._slots.release()
        self._monitor.finished(outcome)
        if outcome.counts[REFUSED_TEXTS]:
            self._check_refused()
        self._finish_if_complete(job)

    def _watch(self, answer: Answer) -> None:
        self._monitor.answered(answer)
        health = self._monitor.health
        if health.unusable:
            raise no_pairs(health.answers, health.dropped, health.samples, described(self._config.prompt), "")

    def _finish_if_complete(self, job: ShardJob) -> None:
        if job.complete and job in self._open:
            self._open.discard(job)
            self._start(self._finish(job))

    async def _finish(self, job: ShardJob) -> None:
        try:
            await in_thread(job.finish)
        finally:
            job.close()

    def _close_all(self) -> None:
        for job in self._open:
            try:
                job.close()
            except UserError as error:
                logger.error("synthesis: %s", error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_refused(self) -> None:
        texts = self._monitor.counts["texts"]
        if texts >= _LEAST_TEXTS:
            check_refused(self._monitor.counts, self._config.generation.max_refused_share)

    async def _sync(self) -> None:
        for job in list(self._open):
            await asyncio.get_running_loop().run_in_executor(None, job.journal.sync)


def too_many_refused(counts: Mapping[str, int], limit: float) -> bool:
    """Whether the engine refused more than the fraction ``limit`` of the texts in ``counts``, and more than one, which
    is no pattern; with a limit of 0, whether it refused any."""
    refused, texts = counts.get(REFUSED_TEXTS, 0), counts.get("texts", 0)
    return refused > (max(1, limit * texts) if limit else 0)


def check_refused(counts: Mapping[str, int], limit: float) -> None:
    """Raises StageError if :func:`too_many_refused`."""
    if too_many_refused(counts, limit):
        share = f"synthesis.generation.max_refused_share ({limit:g})"
        raise StageError(
            f"the engine refused {counts[REFUSED_TEXTS]} of {counts['texts']} texts, more than {share}. "
            "The rejects files of finished shards say why. Fix the cause and rerun: only the refused texts are asked "
            "about again. Or raise the limit to continue without their pairs."
        )


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
