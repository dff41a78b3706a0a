"""The layout of ranks: how many there are, what each one does, and the groups between them.

Works the same under torchrun, srun or in a single process: world size and rank come from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from megatron_ipt.errors import RecipeError
from megatron_ipt.models import divisibility
from megatron_ipt.training.config import TrainingConfig

_RANK_VARIABLES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Layout:
    """World size divided into tensor, pipeline, context and data parallelism.

    Attributes:
        data: number of data-parallel ranks, each with its own samples.
        micro_batches: forward passes of a data-parallel rank in a step with the full batch size.
    """

    world_size: int
    tensor: int
    pipeline: int
    data: int
    micro_batches: int
    context: int = 1

    @classmethod
    def of(cls, config: TrainingConfig, world_size: int) -> Layout:
        """The layout of ``world_size`` ranks.

        Raises:
            RecipeError: the parallel sizes do not divide the ranks, or the ranks do not divide the batch.
        """
        parallel = config.parallel
        least = parallel.least_ranks()
        if world_size % least:
            raise RecipeError(
                f"training.parallel: {world_size} ranks cannot be divided into groups of tensor_model_parallel_size="
                f"{parallel.tensor_model_parallel_size} x pipeline_model_parallel_size="
                f"{parallel.pipeline_model_parallel_size} x context_parallel_size={parallel.context_parallel_size} "
                f"with expert_model_parallel_size={parallel.expert_model_parallel_size}; start "
                f"{divisibility.multiples(world_size, least)} ranks"
            )
        data = world_size // parallel.model_ranks()
        samples = config.micro_batch_size * data
        if config.global_batch_size % samples:
            fitting = divisibility.multiples(config.global_batch_size, samples)
            raise RecipeError(
                f"training.global_batch_size: {config.global_batch_size} is not divisible by micro_batch_size="
                f"{config.micro_batch_size} x {data} data-parallel ranks; nearest that are: {fitting}"
            )
        return cls(
            world_size,
            parallel.tensor_model_parallel_size,
            parallel.pipeline_model_parallel_size,
            data,
            config.global_batch_size // samples,
            parallel.context_parallel_size,
        )


def rank_and_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """(rank, world size, rank on this machine) as set by torchrun or srun; (0, 1, 0) without them."""
    for names in _RANK_VARIABLES:
        if all(name in environment for name in names):
            rank, world, local = (int(environment[name]) for name in names)
            return rank, world, local
    return 0, 1, 0


def start_process_group(timeout: timedelta = timedelta(minutes=30)) -> None:
    """Connects the ranks: NCCL with GPUs (one per local rank), gloo without."""
    import torch

    rank, world_size, local_rank = rank_and_world()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if world_size == 1 and "MASTER_ADDR" not in os.environ:
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
        return
    torch.distributed.init_process_group(
        backend, init_method="env://", rank=rank, world_size=world_size, timeout=timeout
    )


def start_model_parallel(config: TrainingConfig) -> None:
    """Creates Megatron-Core's groups within the process group, which has been started."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=config.parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=config.parallel.context_parallel_size,
        expert_model_parallel_size=config.parallel.expert_model_parallel_size,
        create_gloo_process_groups=False,
    )
