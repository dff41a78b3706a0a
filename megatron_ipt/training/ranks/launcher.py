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
            # Torchrun ends its ranks when asked to; a single rank only notes that it was asked again.
            forwarding = _Forwarding(reports, signal.SIGTERM if ranks > 1 else signal.SIGKILL)
            with forwarding:
                # Inside: an interrupt just after the start would leave ranks behind whose job's folder is gone.
                process = subprocess.Popen(
                    local.command(ranks, _WORKER, job), env=local.environment(ranks), start_new_session=True
                )
                try:
                    forwarding.begin(process)
                    status = process.wait()
                finally:
                    end_group(process, _SECONDS_TO_END)
            received = forwarding.received
            if signal.SIGINT in received:
                outcome = reports.error()
                if outcome is not None:
                    logger.info("%s", outcome)
                raise KeyboardInterrupt
            counts = reports.counts()
            if status or received or counts is None:
                raise _error(reports, ranks, received)
        return counts


class _Forwarding:
    """Forwards stop signals to the ranks inside its block; those that arrive before :meth:`begin` are kept until then.

    Args:
        to_end: stops the ranks immediately, when a second signal arrives.
    """

    def __init__(self, reports: RankReports, to_end: signal.Signals):
        self.received: list[int] = []
        self._reports = reports
        self._to_end = to_end
        self._process: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        """Forwards to ``process``, which leads a session."""
        self._process = process
        if self.received:
            self._forward()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._process is not None:
            self._forward()

    def _forward(self) -> None:
        assert self._process is not None
        first_rank = self._reports.pid_file(0)
        if len(self.received) > 1:
            signal_group(self._process, self._to_end if len(self.received) == 2 else signal.SIGKILL)
        elif first_rank.exists():
            logger.info("training: stopping after this step; signal again to stop immediately")
            os.kill(int(first_rank.read_text()), signal.SIGUSR1)
        else:
            signal_group(self._process, signal.SIGTERM)


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
