"""The objective J of PDS: the mean loss over rows that a model is to become good at, such as instructions.

Each row counts the same, whatever its length. Rows that are also trained on are refused: on those, learning by heart
looks like progress.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.selection.pds.data_parallel import DataParallel
from megatron_ipt.selection.pds.language_model import TokenBatch
from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch

_LISTED = 5
"""Pairs of equal rows that an error names."""


def mean_loss(
    losses: Callable[[Theta, TokenBatch], torch.Tensor],
    batches: Sequence[TokenBatch],
    data_parallel: DataParallel | None = None,
) -> list[Callable[[Theta], torch.Tensor]]:
    """``targets`` of a problem: functions of theta that add up, over all ranks, to the mean loss of all target rows.

    Every rank calls it, since what one row counts depends on how many there are on all.

    Args:
        losses: ``(theta, batch) -> [rows]``, as :func:`~megatron_ipt.selection.pds.language_model.row_losses` makes.
        batches: this rank's share of the target rows.
        data_parallel: the ranks that share them; None for all that torch.distributed knows.

    Raises:
        InputError: there are no target rows on any rank.
    """
    rows = sum((data_parallel or DataParallel()).gather(sum(len(batch.tokens) for batch in batches)))
    if not rows:
        raise InputError("the target set of PDS has no rows: without any, no row of the corpus is better than another")

    def of_batch(theta: Theta, batch: TokenBatch) -> torch.Tensor:
        return losses(theta, batch).sum() / rows

    return [partial(of_batch, batch=batch) for batch in batches]


def refuse_shared_rows(target: Iterable[npt.NDArray[np.integer]], training: Iterable[npt.NDArray[np.integer]]) -> None:
    """Compares rows by their token ids, whole and unpadded.

    Args:
        target: ids of each target row, [tokens].
        training: ids of each row that is trained on or scored, [tokens].

    Raises:
        InputError: a target row is also a training row.
    """
    places: dict[bytes, int] = {}
    for place, ids in enumerate(target):
        places.setdefault(_digest(ids), place)
    shared = [
        f"{places[digest]} is training row {row}"
        for row, digest in enumerate(map(_digest, training))
        if digest in places
    ]
    if shared:
        listed = ", ".join(shared[:_LISTED]) + (", ..." if len(shared) > _LISTED else "")
        raise InputError(
            f"{len(shared)} training rows are also target rows (target row {listed}): scores would favour learning"
            " them by heart; leave them out of one of the two"
        )


def _digest(ids: npt.NDArray[np.integer]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(ids, "<i8").tobytes(), digest_size=16).digest()
