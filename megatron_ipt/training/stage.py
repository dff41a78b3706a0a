"""The training stage: starts the ranks, several under torchrun, passes signals on, and reports as one.

What a rank raises for the user is raised here again with the same message; anything else comes back as its traceback.
Ctrl-C, TERM and USR1 ask the ranks for a checkpoint at the next step; a second one ends them at once. Rerunning
continues from the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_ipt import errors
from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import read_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.progress import counted
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE, last_losses
from megatron_ipt.training.loop.stop import ENDED, SIGNALS, Checkpointed
from megatron_ipt.training.ranks.job import Job
from megatron_ipt.training.ranks.layout import Layout

logger = logging.getLogger(__name__)

_BROKEN_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "DistBackendError", "Broken pipe")
_SECONDS_TO_END = 60.0


def run(config: TrainingConfig, context: StageContext) -> dict[str, Any]:
    """Trains on ``context.inputs[TOKENS]`` into ``context.directory``.

    Returns:
        ``steps, tokens, parameters, ranks, precision, final_loss, valid`` (loss by validation set).

    Raises:
        UserError: as a rank raised it; :class:`Checkpointed` when stopped by TERM or USR1.
        KeyboardInterrupt: after Ctrl-C, once the ranks have saved and ended.
    """
    ranks = config.ranks()
    Layout.of(config, ranks)
    context.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="megatron-ipt-training-") as folder:
        report = Path(folder)
        job = report / "job.json"
        Job(config, context, report).write(job)
        logger.info("training: starting %s", counted(ranks, "rank"))
        process = subprocess.Popen(_command(ranks, job), env=_environment(ranks), start_new_session=True)
        # Torchrun ends its ranks when asked to; a rank that was asked to stop only notes that it is asked again.
        with _forwarding(process, report, signal.SIGTERM if ranks > 1 else signal.SIGKILL) as received:
            try:
                status = process.wait()
            finally:
                _end(process)
        if received and signal.SIGINT in received:
            _log_outcome_of_interrupt(report)
            raise KeyboardInterrupt
        if status or received:
            raise _error(report, ranks, received)
        counts: dict[str, Any] = read_json(report / "counts.json")
    return counts | last_losses(context.directory / METRICS_FILE)


def _command(ranks: int, job: Path) -> list[str]:
    worker = ["-m", "megatron_ipt.training.ranks.worker", str(job)]
    launch = ["-m", "megatron_ipt.training.ranks.launch", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *worker] if ranks == 1 else [sys.executable, *launch, *worker]


def _environment(ranks: int) -> dict[str, str]:
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if ranks == 1:
        # This process may itself be a rank of something else, as in a Slurm job.
        environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        environment.pop("MASTER_ADDR", None)
    if sys.platform == "linux":
        # All ranks are on this machine; its own name may not resolve where there is no network.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


@contextmanager
def _forwarding(process: subprocess.Popen[bytes], report: Path, to_end: signal.Signals) -> Iterator[list[int]]:
    """Passes stop signals on to the ranks while the block runs; yields the list of those received.

    Args:
        to_end: what ends ``process`` at once when a second signal comes.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        first_rank = report / "rank-0.pid"
        if len(received) == 1 and first_rank.exists():
            logger.info("training: stopping after this step; once more stops at once")
            os.kill(int(first_rank.read_text()), signal.SIGUSR1)
        elif len(received) == 1:
            _signal_group(process, signal.SIGTERM)
        else:
            _signal_group(process, to_end if len(received) == 2 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leaves no rank behind when waiting was broken off by an exception."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _error(report: Path, ranks: int, received: list[int]) -> Exception:
    """The one error to show of all that the ranks left."""
    for path in sorted(report.glob("rank-*.error.json")):
        outcome = read_json(path)
        if outcome["error"] == Checkpointed.__name__:
            return Checkpointed(outcome["message"])
        kind = getattr(errors, outcome["error"], UserError)
        return kind(outcome["message"])
    if received:
        return Checkpointed(ENDED)
    traces = sorted(report.glob("rank-*.traceback"), key=lambda path: path.stat().st_mtime_ns)
    for path in traces:
        text = path.read_text()
        if not any(sign in text for sign in _BROKEN_CONNECTION):
            return RuntimeError(f"training {path.stem} failed:\n{text}")
    return StageError(
        f"training: a rank of {ranks} ended without a word, as when the system runs out of memory. "
        "Lower training.micro_batch_size or training.data.seq_length; the same command continues from the last "
        "checkpoint."
    )


def _log_outcome_of_interrupt(report: Path) -> None:
    for path in report.glob("rank-*.error.json"):
        logger.info("%s", read_json(path)["message"])
        return
