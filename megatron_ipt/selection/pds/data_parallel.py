"""Sums and agreement over the ranks among which the examples of a step are shared out.

Every rank has the whole of the parameters and its share of the examples. Without torch.distributed, or with one rank,
nothing is sent. An error is agreed upon before it is raised, so that no rank waits for one that has given up.
"""

from __future__ import annotations

from typing import Any

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.selection.pds.vectors import Theta, tensors


class DataParallel:
    """The ranks that share the examples.

    Args:
        group: process group of torch.distributed; None for its default group, if it has been initialised.
    """

    def __init__(self, group: Any = None):
        from torch import distributed

        self._group = group
        running = distributed.is_available() and distributed.is_initialized()
        self._size: int = distributed.get_world_size(group) if running else 1

    def sum(self, vector: Theta) -> Theta:
        """Adds ``vector`` up over the ranks, in place."""
        if self._size > 1:
            from torch import distributed

            for tensor in tensors(vector):
                distributed.all_reduce(tensor, group=self._group)
        return vector

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, in their order; on every rank. For small values."""
        if self._size == 1:
            return [value]
        from torch import distributed

        gathered: list[Any] = [None] * self._size
        distributed.all_gather_object(gathered, value, group=self._group)
        return gathered

    def raise_together(self, complaint: str, error: type[UserError] = StageError) -> None:
        """Raises ``error`` on every rank if any rank complains; the complaint of the first is the message."""
        found = [message for message in self.gather(complaint) if message]
        if found:
            raise error(found[0])
