"""The training stage on a cluster: the command that starts all ranks is given; this watches it and reports as one.

The counterpart of :mod:`megatron_ipt.training.stage` for several nodes, run inside the same manifest. It renews the
lease, passes USR1 on to rank 0 (every rank hears of it at the next step), and ends the job when nothing moves any more,
with the name of the rank that holds up the others.
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
from megatron_ipt.files import read_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE, read_metrics
from megatron_ipt.training.loop.stop import ENDED, Checkpointed
from megatron_ipt.training.ranks.job import Job
from megatron_ipt.training.ranks.worker import end_with_parent

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_SECONDS_TO_END = 90.0
_SECONDS_TO_DIE = 5.0
_TIMED_OUT = ("Timed out", "timed out", "timeout", "Timeout")
_BROKEN_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "DistBackendError", "Broken pipe")


class LeaseLost(UserError):
    """Another copy of this job has taken over; this one has stopped its ranks."""

    exit_status = errors.StageError.exit_status


class RankGroup:
    """All ranks of one start of the job.

    Args:
        command: starts them everywhere and ends when they have; finds the job's file in ``MEGATRON_IPT_JOB``.
        report: folder that all nodes see, for what the ranks leave.
        renew: renews the lease; says why to stop, or nothing.
        stall_seconds: without a step and without a rank moving, after which the job hangs.
    """

    def __init__(self, command: list[str], report: Path, renew: Callable[[], str], stall_seconds: float):
        self._command = command
        self._report = report
        self._renew = renew
        self._stall_seconds = stall_seconds
        self._asked = False
        self._signalled = False
        self._beats: dict[int, tuple[int, float]] = {}

    def ask_to_stop(self) -> None:
        """Has the ranks save a checkpoint and end. Safe in a signal handler."""
        self._asked = True

    def run(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        """The stage's work: starts, watches, and returns the counts.

        Raises:
            UserError: as a rank raised it; Checkpointed; LeaseLost; StageError for a hang or a rank without a word.
        """
        self._report.mkdir(parents=True, exist_ok=True)
        job = self._report / "job.json"
        Job(config, context, self._report).write(job)
        metrics = context.directory / METRICS_FILE
        environment = {
            **os.environ,
            "MEGATRON_IPT_JOB": str(job),
            "TORCH_FR_DUMP_TEMP_FILE": str(self._report / "nccl-rank-"),
        }
        process = subprocess.Popen(
            self._command, env=environment, start_new_session=True, preexec_fn=_end_with_this_process
        )
        try:
            status = self._watch(process, metrics)
        finally:
            self._end(process)
        counts = self._report / "counts.json"
        if not counts.exists() or self._outcomes():
            raise self._error(status)
        if status:
            # Rank 0 writes its counts behind the last checkpoint: what failed after that was the way out.
            logger.warning("training: finished; a rank then ended with status %d", status)
        return read_json(counts) | _losses(metrics)

    def _watch(self, process: subprocess.Popen[bytes], metrics: Path) -> int:
        size, moved = -1, time.monotonic()
        while (status := process.poll()) is None:
            time.sleep(_LOOK_SECONDS)
            reason = self._renew()
            if reason:
                logger.error("training: %s; stopping this copy", reason)
                self._end(process, signal.SIGKILL)
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
        path = self._report / "rank-0.pid"
        if not path.exists():
            return False
        logger.info("training: asked to stop; saving a checkpoint after this step")
        self._signal_rank(path, signal.SIGUSR1)
        return True

    def _signal_rank(self, path: Path, number: signal.Signals) -> None:
        """Signals the rank whose process id ``path`` holds, if that process is one of ours: ids of other nodes mean
        nothing here."""
        try:
            pid = int(path.read_text())
            if str(self._report).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)
        except (OSError, ValueError):
            return

    def states(self) -> list[RankState]:
        """What the ranks were last seen doing; how long ago is told by watching their counters."""
        found = []
        for path in self._report.glob("rank-*.state.json"):
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
        self._end(process, signal.SIGKILL)
        raise StageError(
            f"training: no step for {self._stall_seconds:.0f} s and no rank moves: {sentence}. The last checkpoint is "
            f"intact; leave the node out (EXCLUDE in the site file) and submit again. {self._flight_recorder()}"
        )

    def _flight_recorder(self) -> str:
        if any(self._report.glob("nccl-rank-*")):
            return f"NCCL's last operations: torchfrtrace --prefix nccl-rank- {self._report}"
        return f"States of the ranks: {self._report}"

    def _outcomes(self) -> list[Path]:
        return sorted(self._report.glob("rank-*.error.json"))

    def _error(self, status: int) -> Exception:
        """The one error to show of all that the ranks left."""
        for path in self._outcomes():
            outcome = read_json(path)
            if outcome["error"] == Checkpointed.__name__:
                return Checkpointed(outcome["message"])
            return getattr(errors, outcome["error"], UserError)(outcome["message"])
        traces = sorted(self._report.glob("rank-*.traceback"), key=lambda path: path.stat().st_mtime_ns)
        texts = {path: path.read_text() for path in traces}
        if any(sign in text for text in texts.values() for sign in _TIMED_OUT):
            sentence = hang.diagnose(self.states(), INTERVAL)
            return StageError(f"training: a collective operation timed out: {sentence}. {self._flight_recorder()}")
        for path, text in texts.items():
            if not any(sign in text for sign in _BROKEN_CONNECTION):
                return StageError(f"training: {path.stem} failed:\n{text}")
        if self._asked:
            return Checkpointed(ENDED)
        return StageError(
            f"training: the ranks ended with status {status} without a word, as when a node fails or the system runs "
            f"out of memory; see the log above and {self._report}. Submitting again continues from the last checkpoint."
        )

    def _end(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
        """Leaves no rank behind on this node, where rank 0 publishes checkpoints.

        srun may be gone while its ranks live: it gives up when Slurm gives up the node, and the ranks do not.
        """
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(_SECONDS_TO_END if number == signal.SIGTERM else _SECONDS_TO_DIE)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
        for path in self._report.glob("rank-*.pid"):
            self._signal_rank(path, signal.SIGKILL)


_groups: list[RankGroup] = []


def use(group: RankGroup) -> None:
    """Makes ``group`` what :func:`run` runs: the pipeline finds a stage's work by name."""
    _groups[:] = [group]


def run(config: TrainingConfig, context: StageContext) -> dict[str, Any]:
    """The training stage's work, by the group in use."""
    return _groups[0].run(config, context)


def _end_with_this_process() -> None:
    end_with_parent(signal.SIGTERM)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _losses(path: Path) -> dict[str, Any]:
    """Last training loss and last validation losses of a metrics file."""
    losses: dict[str, Any] = {"final_loss": None, "valid": {}}
    for record in read_metrics(path):
        if "valid" in record:
            losses["valid"] = record["valid"]
        elif "loss" in record:
            losses["final_loss"] = record["loss"]
    return losses
