"""Starts the ranks of a run, waits for them, and reports as one.

The training stage takes any :class:`Launcher`. The one here starts the ranks on this machine: a single process, or
several under torchrun. A cluster passes its own.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from megatron_ipt.errors import StageError
from megatron_ipt.manifest import StageContext
from megatron_ipt.progress import counted
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.stop import ENDED, SIGNALS, Checkpointed
from megatron_ipt.training.ranks import local
from megatron_ipt.training.ranks.job import Job
from megatron_ipt.training.ranks.layout import Layout
from megatron_ipt.training.ranks.processes import end_group, signal_group
from megatron_ipt.training.ranks.reports import RankReports

logger = logging.getLogger(__name__)

_WORKER = "megatron_ipt.training.ranks.worker"
_SECONDS_TO_END = 60.0


class Launcher(Protocol):
    """Runs all ranks of a training."""

    def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        """Trains into ``context.directory``, which exists; returns rank 0's counts for the manifest.

        Raises:
            UserError: as a rank raised it; :class:`~megatron_ipt.training.loop.stop.Checkpointed` if the run was asked
                to stop.
        """
        ...


class LocalLauncher:
    """Ranks on this machine, ``training.nproc`` of them.

    Ctrl-C, TERM and USR1 ask the ranks to save a checkpoint after the current step and exit; a second signal stops them
    immediately. Rerunning resumes from the last checkpoint.
    """

    def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        """See :class:`Launcher`.

        Raises:
            RuntimeError: with the traceback of the rank that failed first, for an error that is not the user's.
            KeyboardInterrupt: after Ctrl-C, once the ranks have saved and exited.
        """
        ranks = config.ranks()
        Layout.of(config, ranks)
        with tempfile.TemporaryDirectory(prefix="megatron-ipt-training-") as folder:
            reports = RankReports(Path(folder))
            job = reports.folder / "job.json"
            Job(config, context, reports.folder).write(job)
            logger.info("training: starting %s", counted(ranks, "rank"))
            process = subprocess.Popen(
                local.command(ranks, _WORKER, job), env=local.environment(ranks), start_new_session=True
            )
            # Torchrun ends its ranks when asked to; a single rank only notes that it was asked again.
            with _forwarding(process, reports, signal.SIGTERM if ranks > 1 else signal.SIGKILL) as received:
                try:
                    status = process.wait()
                finally:
                    end_group(process, _SECONDS_TO_END)
            if signal.SIGINT in received:
                outcome = reports.error()
                if outcome is not None:
                    logger.info("%s", outcome)
                raise KeyboardInterrupt
            counts = reports.counts()
            if status or received or counts is None:
                raise _error(reports, ranks, received)
        return counts


@contextmanager
def _forwarding(process: subprocess.Popen[bytes], reports: RankReports, to_end: signal.Signals) -> Iterator[list[int]]:
    """Forwards stop signals to the ranks while the block runs; yields the list of those received.

    Args:
        to_end: stops ``process`` immediately, when a second signal arrives.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        first_rank = reports.pid_file(0)
        if len(received) == 1 and first_rank.exists():
            logger.info("training: stopping after this step; signal again to stop immediately")
            os.kill(int(first_rank.read_text()), signal.SIGUSR1)
        elif len(received) == 1:
            signal_group(process, signal.SIGTERM)
        else:
            signal_group(process, to_end if len(received) == 2 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _error(reports: RankReports, ranks: int, received: list[int]) -> Exception:
    """The one error to raise, given everything that the ranks reported."""
    reported = reports.error()
    if reported is not None:
        return reported
    if received:
        return Checkpointed(ENDED)
    failure = reports.first_failure()
    if failure is not None:
        return RuntimeError(f"training {failure[0]} failed:\n{failure[1]}")
    return StageError(
        f"training: one of {counted(ranks, 'rank')} exited without an error message, which usually means that the "
        "system ran out of memory. Lower training.micro_batch_size or training.data.seq_length; rerun the same command "
        "to resume from the last checkpoint."
    )
