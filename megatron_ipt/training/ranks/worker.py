"""One rank of a training run, under torchrun, srun or alone: ``python -m megatron_ipt.training.ranks.worker JOB.json``.

``JOB.json`` is what a launcher writes: the settings, the stage's context, and the folder for reports, in which this
rank leaves its process id and, at the end, its counts or the message of its error.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.ranks.processes import end_with_parent
from megatron_ipt.training.ranks.reports import RankReports


def train(config: TrainingConfig, context: StageContext, reports: RankReports | None = None) -> dict[str, Any]:
    """Trains in this process, as the rank that the environment describes.

    Args:
        reports: receives the process id of this rank as soon as it can be asked to stop.

    Returns:
        Counts for the manifest.

    Raises:
        UserError: on this rank; the others end because the connection breaks.
    """
    from megatron_ipt.training.cpu import cuda_stand_in
    from megatron_ipt.training.loop.stop import StopRequest
    from megatron_ipt.training.ranks import layout

    stop = StopRequest()
    stop.install()
    rank, _, _ = layout.rank_and_world()
    if reports is not None:
        reports.pid_file(rank).write_text(str(os.getpid()))
    cuda_stand_in.install()
    layout.start_process_group(timedelta(minutes=config.parallel.distributed_timeout_minutes))
    layout.start_model_parallel(config)

    import torch

    from megatron_ipt.training.loop.trainer import Trainer

    counts = Trainer(config, context, stop).run()
    torch.distributed.destroy_process_group()
    return counts


class ThisProcess:
    """The :class:`~megatron_ipt.training.ranks.launcher.Launcher` of a process that already is a rank."""

    def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        """Trains as this one rank; the others are started by whatever started this process."""
        return train(config, context)


def main(job: Path) -> int:
    """Runs the job; returns the exit status of the process."""
    from megatron_ipt.extensions import load_registered_extensions
    from megatron_ipt.progress import configure_logging
    from megatron_ipt.training.ranks.job import Job

    end_with_parent(signal.SIGKILL)
    task = Job.read(job)
    rank = int(os.environ.get("RANK", 0))
    configure_logging(first_rank=rank == 0)
    reports = RankReports(task.report)
    reports.trace_uncaught_errors(rank)
    try:
        load_registered_extensions()
        counts = train(task.config, task.context, reports)
    except UserError as error:
        reports.write_error(rank, error)
        return error.exit_status
    if rank == 0:
        reports.write_counts(counts)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
