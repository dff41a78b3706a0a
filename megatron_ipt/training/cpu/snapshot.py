"""The state of a run as tensors that can be saved without copying them first, for CPU.

A forked writer sees memory as it was at the fork, so nothing needs to be copied before. Megatron-Core copies anyway: it
gathers the optimizer state of all data-parallel ranks, even if there is only one, and clones every tensor that is part
of a larger storage, because saving it would save the whole storage. Here the state of a single rank is passed on in
place, piece by piece, and each piece gets its own storage over the same memory.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

_gathered_state = DistributedOptimizer.get_parameter_state_dp_zero


def stand_in_for_gathering() -> None:
    """Lets Megatron-Core's distributed optimizer return its state without a copy if one rank holds all of it."""
    DistributedOptimizer.get_parameter_state_dp_zero = _parameter_state


def share_memory(state: dict[str, Any]) -> None:
    """Gives every CPU tensor of a sharded state a storage of exactly its size, over the same memory."""
    apply_factories(state)
    for shard in nested_values(state):
        if isinstance(shard, ShardedTensor) and shard.data is not None:
            shard.data = _with_own_storage(shard.data.detach())


def _with_own_storage(tensor: torch.Tensor) -> torch.Tensor:
    is_part = tensor.untyped_storage().size() != tensor.numel() * tensor.itemsize
    if tensor.device.type != "cpu" or not is_part or not tensor.is_contiguous():
        return tensor
    # Through bytes, because numpy has no bf16.
    return torch.from_numpy(tensor.view(-1).view(torch.uint8).numpy()).view(tensor.dtype).view(tensor.shape)


class _Pieces:
    """Acts as a flat tensor of which parameters are slices; a slice returns the parameter's own tensor."""

    def __init__(self) -> None:
        self.pieces: dict[tuple[int, int], torch.Tensor] = {}

    def __getitem__(self, place: slice) -> torch.Tensor:
        return self.pieces[place.start, place.stop]


def _parameter_state(
    optimizer: Any, use_gloo_comm: bool = True, empty_data: bool = False, return_on_all_ranks: bool = False
) -> Any:
    """Main weights and Adam moments by position in the buffers, in the form of Megatron-Core's own function."""
    if empty_data or not return_on_all_ranks or optimizer.data_parallel_group.size() > 1:
        return _gathered_state(optimizer, use_gloo_comm, empty_data, return_on_all_ranks)
    state: dict[Any, Any] = {"buckets_coalesced": True}
    for index, (buffer, ranges) in enumerate(zip(optimizer.buffers, optimizer.gbuf_ranges)):
        for dtype, buckets in ranges.items():
            pieces = {name: _Pieces() for name in ("param", "exp_avg", "exp_avg_sq")}
            for bucket in buckets:
                for parameter in bucket["param_map"]:
                    start, end, _ = buffer.param_index_map[parameter]
                    tensors = optimizer._get_main_param_and_optimizer_states(parameter)
                    for name, flat in pieces.items():
                        flat.pieces[start, end] = tensors[name].detach()
            state[index] = {dtype: {**pieces, "numel_unpadded": buffer.numel_unpadded}}
    return state
