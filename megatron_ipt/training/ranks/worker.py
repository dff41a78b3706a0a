"""One rank of a training run, under torchrun, srun or alone: ``python -m megatron_ipt.training.ranks.worker JOB.json``.

``JOB.json`` is what :mod:`~megatron_ipt.training.stage` writes: the settings, the stage's context, and a folder for
reports, in which this rank leaves its process id (for signals) and, at the end, its result or the message of its error.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from megatron_ipt.errors import UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig

_PARENT_DEATH_SIGNAL = 1


def train(config: TrainingConfig, context: StageContext, report: Path | None = None) -> dict[str, Any]:
    """Trains in this process as one rank of the world that the environment describes.

    Args:
        report: folder to leave ``rank-0.pid`` in, once this rank can be asked to stop.

    Returns:
        Counts for the manifest.

    Raises:
        UserError: on this rank; the others end by the broken connection.
    """
    from megatron_ipt.training.cpu import cuda_stand_in
    from megatron_ipt.training.loop.stop import StopRequest
    from megatron_ipt.training.ranks import layout

    stop = StopRequest()
    stop.install()
    rank, _, _ = layout.rank_and_world()
    if report is not None:
        (report / f"rank-{rank}.pid").write_text(str(os.getpid()))
    cuda_stand_in.install()
    layout.start_process_group(timedelta(minutes=config.parallel.distributed_timeout_minutes))
    layout.start_model_parallel(config)

    import torch

    from megatron_ipt.training.loop.trainer import Trainer

    counts = Trainer(config, context, stop).run()
    torch.distributed.destroy_process_group()
    return counts


def train_stage(config: TrainingConfig, context: StageContext) -> dict[str, Any]:
    """The training stage for a process that is a rank already: what ``stage.run`` is for one that has to start them."""
    from megatron_ipt.training.loop.metrics import METRICS_FILE, last_losses

    context.directory.mkdir(parents=True, exist_ok=True)
    return train(config, context) | last_losses(context.directory / METRICS_FILE)


def end_with_parent(number: signal.Signals) -> None:
    """Asks Linux to send ``number`` to this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(number))


def main(job: Path) -> int:
    """Runs the job; returns the exit status of the process."""
    from megatron_ipt.extensions import load_registered_extensions
    from megatron_ipt.progress import configure_logging
    from megatron_ipt.training.ranks.job import Job

    end_with_parent(signal.SIGKILL)
    load_registered_extensions()
    task = Job.read(job)
    rank = os.environ.get("RANK", "0")
    configure_logging(first_rank=rank == "0")
    _report_tracebacks(task.report / f"rank-{rank}.traceback")
    try:
        counts = train(task.config, task.context, task.report)
    except UserError as error:
        outcome = {"error": type(error).__name__, "message": str(error), "status": error.exit_status}
        (task.report / f"rank-{rank}.error.json").write_bytes(orjson.dumps(outcome))
        return error.exit_status
    if rank == "0":
        (task.report / "counts.json").write_bytes(orjson.dumps(counts))
    return 0


def _report_tracebacks(path: Path) -> None:
    """Leaves the traceback of an error that ends this process in ``path``: the stage shows the one that came first."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        path.write_text("".join(traceback.format_exception(kind, error, trace)))

    sys.excepthook = report


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
