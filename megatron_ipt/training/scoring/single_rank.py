"""Megatron-Core's process-wide state, for models that are on this rank as a whole and may come and go in any order.

Its groups are global to the process. The first model that opens creates what is missing, the others share it, and the
last one that closes removes what was created here and nothing else: a training may have started groups before.
"""

from __future__ import annotations

import threading

import torch

from megatron_ipt.errors import StageError
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in

_lock = threading.Lock()
_users = 0
_created: set[str] = set()


def acquire() -> None:
    """Makes sure that there are groups of one rank; to be followed by :func:`release`.

    Raises:
        StageError: groups exist that divide a model over several ranks.
    """
    global _users
    with _lock:
        cuda_stand_in.install()
        _create_missing()
        _users += 1


def release() -> None:
    """Removes the groups that :func:`acquire` created, if nobody else uses them."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _remove()


def _create_missing() -> None:
    from megatron.core import parallel_state

    from megatron_ipt.training.ranks.layout import start_model_parallel

    if not torch.distributed.is_initialized():
        # A world of its own, even where the environment is that of a rank among several.
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
        _created.add("process group")
    if not parallel_state.model_parallel_is_initialized():
        start_model_parallel(TrainingConfig())
        _created.add("model parallel groups")
    elif _ranks_per_model() > 1:
        raise StageError(
            f"this process is one of {_ranks_per_model()} ranks that hold one model together (tensor, pipeline, "
            "context or expert parallel); open the checkpoint in a separate process"
        )


def _ranks_per_model() -> int:
    from megatron.core import parallel_state

    return int(
        parallel_state.get_tensor_model_parallel_world_size()
        * parallel_state.get_pipeline_model_parallel_world_size()
        * parallel_state.get_context_parallel_world_size()
        * parallel_state.get_expert_model_parallel_world_size()
    )


def _remove() -> None:
    from megatron.core import parallel_state

    if "model parallel groups" in _created and parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if "process group" in _created and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    _created.clear()
