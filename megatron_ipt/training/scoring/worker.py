"""One rank that scores, under torchrun or alone: ``python -m megatron_ipt.training.scoring.worker JOB.json``.

It loads its part of the model in the layout that the job asks for and then works on what it is sent until there is no
more. Errors are left in the job's folder for reports.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from megatron_ipt.config import as_dict
from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.training.config import ParallelConfig
from megatron_ipt.training.ranks.processes import end_with_parent
from megatron_ipt.training.ranks.reports import RankReports
from megatron_ipt.training.scoring.channel import Done, RankChannel, Ready

_SEED = 0


@dataclass(frozen=True)
class ScoringJob:
    """What ranks are told before they start.

    Attributes:
        checkpoint: folder of the checkpoint itself.
        address: of the socket over which they get their work.
        reports: folder to leave errors in.
    """

    checkpoint: Path
    config: MegatronConfig
    address: str
    reports: Path

    def write(self, path: Path) -> None:
        values = {"checkpoint": str(self.checkpoint), "config": as_dict(self.config), "address": self.address}
        write_json(path, {**values, "reports": str(self.reports)})

    @classmethod
    def read(cls, path: Path) -> ScoringJob:
        values = read_json(path)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MegatronConfig), values["config"]))
        checkpoint, reports = Path(values["checkpoint"]), Path(values["reports"])
        return cls(checkpoint, cast(MegatronConfig, config), values["address"], reports)


def serve(checkpoint: Path, config: MegatronConfig, channel: RankChannel) -> None:
    """Scores what ``channel`` sends, as one rank of the world that the environment describes.

    Raises:
        UserError: the checkpoint cannot be loaded, or there is too little memory.
    """
    from megatron_ipt.training.cpu import cuda_stand_in
    from megatron_ipt.training.ranks import layout

    cuda_stand_in.install()
    layout.start_process_group(timedelta(minutes=config.distributed_timeout_minutes))

    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from megatron_ipt.training.config import Fp8Config, TrainingConfig
    from megatron_ipt.training.model.precision import resolve_precision
    from megatron_ipt.training.scoring.forward_model import ForwardModel

    parallel = ParallelConfig(
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        sequence_parallel=config.sequence_parallel,
    )
    layout.start_model_parallel(TrainingConfig(parallel=parallel))
    # Nothing is drawn, but sequence parallel embeddings ask for a random state.
    model_parallel_cuda_manual_seed(_SEED)
    precision = resolve_precision(config.precision, Fp8Config())
    try:
        model = ForwardModel(checkpoint, precision, parallel)
        is_first = parallel_state.get_tensor_model_parallel_rank() == 0
        reports = is_first and parallel_state.is_pipeline_last_stage()
        channel.ready(Ready(parallel_state.get_data_parallel_rank(), reports, precision))
        while (work := channel.next()) is not None:
            sums = model.summed_log_probabilities(work.batches)
            if reports:
                channel.send(Done(work.number, sums or []))
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"scoring: out of GPU memory with batches of {config.batch_tokens} tokens: {error}. Lower batch_tokens, or "
            "spread the model over more ranks with tensor_model_parallel_size or pipeline_model_parallel_size"
        ) from error
    torch.distributed.destroy_process_group()


def main(path: Path) -> int:
    """Runs the job; returns the exit status of the process."""
    from megatron_ipt.extensions import load_registered_extensions
    from megatron_ipt.progress import configure_logging
    from megatron_ipt.training.ranks.layout import rank_and_world

    end_with_parent(signal.SIGKILL)
    rank, _, _ = rank_and_world()
    configure_logging(first_rank=rank == 0)
    job = ScoringJob.read(path)
    reports = RankReports(job.reports)
    reports.trace_uncaught_errors(rank)
    channel = RankChannel(job.address)
    load_registered_extensions()
    try:
        serve(job.checkpoint, job.config, channel)
    except UserError as error:
        reports.write_error(rank, error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
