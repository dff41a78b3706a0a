"""Grows all disciplines of a process, with a bounded number of requests in flight at each model and no barriers.

A discipline waits for nothing but its own calls, so many of them grow at the same time: while one waits for its last
list of subjects, others ask their questions. The moment a reply is there, it is in the journal of its discipline.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.inference.run import beside, in_order, in_thread
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.synthesis.from_taxonomy.asking import LEVELS, SUBJECTS, Asker, Call, of_answers
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.gate import Gate
from megatron_ipt.synthesis.from_taxonomy.growing import Grower
from megatron_ipt.synthesis.from_taxonomy.journal import CallJournal, Reply
from megatron_ipt.synthesis.from_taxonomy.monitor import Monitor
from megatron_ipt.synthesis.from_taxonomy.outline.parsing import subjects_in
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import Prompts
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import DisciplineTask
from megatron_ipt.synthesis.from_taxonomy.writing import ROWS_FOLDER, TREE_FOLDER, write_discipline

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_SYNC_SECONDS = 1.0
_LEAST_CALLS = 100
"""From which the fraction of refused ones is meaningful."""
_CALLS_OF_A_DISCIPLINE = 8
"""In flight at least, most of the time: lists first, then the questions of its subjects."""


class Runner:
    """Grows disciplines.

    Args:
        config: section ``taxonomy``.
        prompts: what is asked.
        seed: of the recipe.
        directory: folder of the stage.
        askers: of outlines and questions, and of answers; their engine may be the same. It is not entered.
        identity: of a discipline, for its journal.
    """

    def __init__(
        self,
        config: TaxonomyConfig,
        prompts: Prompts,
        seed: int,
        directory: Path,
        askers: tuple[Asker, Asker],
        identity: Callable[[DisciplineTask], int],
    ):
        self._config = config
        self._prompts = prompts
        self._seed = seed
        self._directory = directory
        self._identity = identity
        self._askers = askers
        self._open: set[CallJournal] = set()
        self._numbers = itertools.count()
        self._failure: UserError | None = None

    async def run(self, tasks: Sequence[DisciplineTask], monitor: Monitor) -> None:
        """Grows and writes every unfinished discipline of ``tasks``.

        Raises:
            NoPairsError: the model is of no use.
            UserError: the first failure; what was answered before it is in the journals.
        """
        self._monitor = monitor
        windows = {
            asker.engine: asker.engine.settings.generation.window or asker.engine.window for asker in self._askers
        }
        self._gates = {engine: Gate(window) for engine, window in windows.items()}
        window = windows[self._askers[0].engine]
        together = self._config.disciplines_in_flight or max(2, math.ceil(window / _CALLS_OF_A_DISCIPLINE))
        async with AsyncExitStack() as stack:
            for engine in windows:
                await stack.enter_async_context(engine)
            try:
                work = in_order(self._discipline, tasks, min(together, len(tasks)))
                await beside(work, (_TICK_SECONDS, monitor.tick), (_SYNC_SECONDS, self._sync))
            finally:
                for journal in self._open:
                    journal.close()

    async def _discipline(self, task: DisciplineTask) -> None:
        markers = ShardMarkers(self._directory)
        if markers.counts(task.name) is not None:
            return
        with task.locked(self._directory):
            if markers.counts(task.name) is not None:
                # Another process finished it between the check and the lock.
                return
            task.remove_leftovers(self._directory, TREE_FOLDER, ROWS_FOLDER)
            journal = CallJournal(task.journal_path(self._directory), self._identity(task))
            self._open.add(journal)
            try:
                journal.forget_refused()
                self._monitor.resumed(len(journal), _is_useful(journal))
                await self._grow(task, journal)
                counts = await self._write(task, journal)
            finally:
                self._open.discard(journal)
                journal.close()
            markers.finish(task.name, counts)
            task.remove_journal(self._directory)
        self._monitor.finished()

    async def _grow(self, task: DisciplineTask, journal: CallJournal) -> None:
        chains: dict[str, int] = {}

        async def ask(call: Call) -> Reply:
            known = journal.reply(call.id, call.asked)
            if known is not None:
                return known
            # Calls with the same beginning meet the same cache; others go wherever there is room.
            chain = chains.setdefault(call.group, next(self._numbers)) if call.group else next(self._numbers)
            try:
                return await self._answer(call, chain, journal)
            except UserError as failure:
                self._failure = failure
                raise

        try:
            await Grower(self._config, self._prompts, self._seed, ask).grow(task.discipline)
        finally:
            for chain in chains.values():
                self._askers[0].engine.release(chain)

    async def _answer(self, call: Call, chain: int, journal: CallJournal) -> Reply:
        asker = self._askers[of_answers(call)]
        async with self._gates[asker.engine].held(LEVELS.index(call.level)):
            if self._failure is not None:
                # It takes a moment until everybody is cancelled; nothing more is asked meanwhile.
                raise self._failure
            reply = await asker.ask(call, chain)
        journal.add(call.id, call.asked, call.level, reply)
        if not call.group:
            asker.engine.release(chain)
        self._monitor.answered(call, reply)
        if reply.refused:
            self._check_refused(reply.refused)
        return reply

    async def _write(self, task: DisciplineTask, journal: CallJournal) -> dict[str, object]:
        # Lock and journal are held until it is done.
        return await in_thread(
            write_discipline, self._config, self._prompts, self._seed, self._directory, task.discipline, task, journal
        )

    def _check_refused(self, why: str) -> None:
        calls, refused = self._monitor.counts["calls"], self._monitor.counts["refused"]
        limit = self._config.generation.max_refused_share
        if (calls >= _LEAST_CALLS or not limit) and refused > (max(1, limit * calls) if limit else 0):
            raise StageError(
                f"taxonomy: the engine refused {refused:,} of {calls:,} requests, more than "
                f"taxonomy.generation.max_refused_share ({limit:g}), the last with: {why}. What was answered is "
                "kept. Fix the cause and rerun: only what was refused is asked again. Or raise the limit and go on."
            )

    async def _sync(self) -> None:
        for journal in list(self._open):
            await asyncio.get_running_loop().run_in_executor(None, journal.sync)


def _is_useful(journal: CallJournal) -> bool:
    """Whether a list of subjects was ever converted."""
    return any(level == SUBJECTS and subjects_in(reply.text)[0] for level, reply in journal.replies())
