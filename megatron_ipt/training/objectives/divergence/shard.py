"""The part of a vocabulary that a rank holds, and what the ranks that split one exchange.

A rank holds as many columns as every other; the last ones may only pad the vocabulary to a size that can be divided.
Such columns are cut off before anything is computed, so it does not matter what is in them: minus infinity would make
``0 * log 0`` NaN, and a number would take probability away from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import ReduceOp, all_reduce


@dataclass(frozen=True)
class Shard:
    """Attributes:
    first: id of the first column.
    size: columns from there that are entries of the vocabulary; those after them are padding.
    group: the ranks that split the vocabulary; None if there is only this one.
    """

    first: int
    size: int
    group: Any = None

    @classmethod
    def of(cls, logits: torch.Tensor, vocabulary: int, group: Any = None) -> Shard:
        """The shard of this rank for ``logits`` [..., columns].

        Args:
            vocabulary: number of entries without padding.
            group: process group that splits the vocabulary, in the order of its ranks.

        Raises:
            ValueError: the columns of all ranks are fewer than the vocabulary.
        """
        ranks = group.size() if group is not None else 1
        columns = logits.size(-1)
        if not 0 < vocabulary <= ranks * columns:
            raise ValueError(f"{ranks} x {columns} columns cannot hold a vocabulary of {vocabulary} entries")
        first = columns * (group.rank() if group is not None else 0)
        return cls(first, min(max(vocabulary - first, 0), columns), group if ranks > 1 else None)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """``numbers``, added up over the ranks in place."""
        return self._reduced(numbers, ReduceOp.SUM)

    def max(self, numbers: torch.Tensor) -> torch.Tensor:
        """The greatest of the ranks, in place."""
        return self._reduced(numbers, ReduceOp.MAX)

    def min(self, numbers: torch.Tensor) -> torch.Tensor:
        """The smallest of the ranks, in place."""
        return self._reduced(numbers, ReduceOp.MIN)

    def _reduced(self, numbers: torch.Tensor, how: Any) -> torch.Tensor:
        if self.group is not None:
            all_reduce(numbers, how, group=self.group)
        return numbers


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` [..., columns] as [rows, columns], without a copy if it is contiguous."""
    return tensor.reshape(-1, tensor.size(-1))
