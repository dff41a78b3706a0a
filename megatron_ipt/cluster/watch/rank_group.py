"""The ranks of a training on a cluster: started by a given command, watched, and reported as one.

A :class:`~megatron_ipt.training.ranks.launcher.Launcher` for several nodes. It renews the lease, forwards USR1 to rank
0 (every rank learns of it at the next step), and ends the job when nothing moves any more, naming the rank that the
others wait for.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt import errors
from megatron_ipt.cluster.watch import hang
from megatron_ipt.cluster.watch.hang import RankState
from megatron_ipt.cluster.watch.watched_rank import INTERVAL
from megatron_ipt.errors import StageError, UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE
from megatron_ipt.training.loop.stop import ENDED, Checkpointed
from megatron_ipt.training.ranks.job import Job
from megatron_ipt.training.ranks.processes import end_group, end_with_parent
from megatron_ipt.training.ranks.reports import RankReports

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_SECONDS_TO_END = 90.0
_SECONDS_TO_DIE = 5.0
_TIMED_OUT = ("Timed out", "timed out", "timeout", "Timeout")


class LeaseLost(UserError):
    """Another copy of this job has taken over; this one has stopped its ranks."""

    exit_status = errors.StageError.exit_status


class RankGroup:
    """All ranks of one start of the job.

    Args:
        command: starts the ranks on all nodes and exits when they have; finds the job file in ``MEGATRON_IPT_JOB``.
        folder: for the reports of the ranks; visible on all nodes.
        renew: renews the lease; returns the reason to stop, or an empty string.
        stall_seconds: the job counts as hanging after this long without a step and without a rank moving.
    """

    def __init__(self, command: list[str], folder: Path, renew: Callable[[], str], stall_seconds: float):
        self._command = command
        self._folder = folder
        self._reports = RankReports(folder)
        self._renew = renew
        self._stall_seconds = stall_seconds
        self._asked = False
        self._signalled = False
        self._beats: dict[int, tuple[int, float]] = {}

    def ask_to_stop(self) -> None:
        """Has the ranks save a checkpoint and exit. Safe in a signal handler."""
        self._asked = True

    def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        """Starts the ranks, watches them, and returns rank 0's counts.

        Raises:
            UserError: as a rank raised it; Checkpointed; LeaseLost; StageError for a hang, or for a rank that exited
                without an error message.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        job = self._folder / "job.json"
        Job(config, context, self._folder).write(job)
        environment = {
            **os.environ,
            "MEGATRON_IPT_JOB": str(job),
            "TORCH_FR_DUMP_TEMP_FILE": str(self._folder / "nccl-rank-"),
        }
        process = subprocess.Popen(
            self._command, env=environment, start_new_session=True, preexec_fn=_end_with_this_process
        )
        try:
            status = self._watch(process, context.directory / METRICS_FILE)
        finally:
            self._end(process, _SECONDS_TO_END)
        counts, error = self._reports.counts(), self._reports.error()
        if counts is None or error is not None:
            raise error or self._error(status)
        if status:
            # Rank 0 writes its counts after the last checkpoint: only the shutdown can have failed after that.
            logger.warning("training: finished; a rank then exited with status %d", status)
        return counts

    def _watch(self, process: subprocess.Popen[bytes], metrics: Path) -> int:
        size, moved = -1, time.monotonic()
        while (status := process.poll()) is None:
            time.sleep(_LOOK_SECONDS)
            reason = self._renew()
            if reason:
                logger.error("training: %s; stopping this copy", reason)
                self._end(process, _SECONDS_TO_DIE)
                raise LeaseLost(f"training: {reason}; this copy has stopped without saving")
            if self._asked and not self._signalled:
                self._signalled = self._signal_first_rank()
            now_size = metrics.stat().st_size if metrics.exists() else 0
            if now_size != size:
                size, moved = now_size, time.monotonic()
            elif time.monotonic() - moved > self._stall_seconds:
                states = self.states()
                if hang.is_stalled(states, self._stall_seconds / 2):
                    self._raise_hang(process, states)
        return status

    def _signal_first_rank(self) -> bool:
        """Rank 0 is on this node: torchrun counts nodes as Slurm does."""
        path = self._reports.pid_file(0)
        if not path.exists():
            return False
        logger.info("training: asked to stop; saving a checkpoint after this step")
        self._signal_rank(path, signal.SIGUSR1)
        return True

    def _signal_rank(self, path: Path, number: signal.Signals) -> None:
        """Signals the rank whose process id ``path`` holds, if that process is one of ours: ids of other nodes mean
        nothing on this one."""
        try:
            pid = int(path.read_text())
            if str(self._folder).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)
        except (OSError, ValueError):
            return

    def states(self) -> list[RankState]:
        """What the ranks were last seen doing; how long ago follows from watching their counters."""
        found = []
        for path in self._folder.glob("rank-*.state.json"):
            try:
                row = orjson.loads(path.read_bytes())
            except (OSError, orjson.JSONDecodeError):
                continue
            beat, seen = self._beats.get(row["rank"], (-1, 0.0))
            if beat != row["beat"]:
                seen = time.monotonic()
                self._beats[row["rank"]] = (row["beat"], seen)
            silent = time.monotonic() - seen
            found.append(
                RankState(row["rank"], row["node"], row["collective"], row["place"], row["still"] + silent, silent)
            )
        return found

    def _raise_hang(self, process: subprocess.Popen[bytes], states: list[RankState]) -> None:
        sentence = hang.diagnose(states, INTERVAL)
        self._end(process, _SECONDS_TO_DIE)
        raise StageError(
            f"training: no step for {self._stall_seconds:.0f} s and no rank moves: {sentence}. The last checkpoint is "
            f"intact; exclude the node (EXCLUDE in the site file) and submit again. {self._flight_recorder()}"
        )

    def _flight_recorder(self) -> str:
        if any(self._folder.glob("nccl-rank-*")):
            return f"NCCL's last operations: torchfrtrace --prefix nccl-rank- {self._folder}"
        return f"States of the ranks: {self._folder}"

    def _error(self, status: int) -> UserError:
        """The one error to raise when no rank reported one."""
        if any(sign in text for text in self._reports.tracebacks().values() for sign in _TIMED_OUT):
            sentence = hang.diagnose(self.states(), INTERVAL)
            return StageError(f"training: a collective operation timed out: {sentence}. {self._flight_recorder()}")
        failure = self._reports.first_failure()
        if failure is not None:
            return StageError(f"training: {failure[0]} failed:\n{failure[1]}")
        if self._asked:
            return Checkpointed(ENDED)
        return StageError(
            f"training: the ranks exited with status {status} without an error message, as when a node fails or the "
            f"system runs out of memory; see the log above and {self._folder}. Submit again to resume from the last "
            "checkpoint."
        )

    def _end(self, process: subprocess.Popen[bytes], patience: float) -> None:
        """Leaves no rank running on this node, where rank 0 publishes checkpoints.

        srun may be gone while its ranks live: it gives up when Slurm gives up the node, and the ranks do not.
        """
        end_group(process, patience)
        for path in self._folder.glob("rank-*.pid"):
            self._signal_rank(path, signal.SIGKILL)


def _end_with_this_process() -> None:
    end_with_parent(signal.SIGTERM)
