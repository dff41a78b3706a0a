"""Tensors that single ranks send to single ranks, all at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.distributed import P2POp, batch_isend_irecv, get_rank, irecv, isend


class Message(NamedTuple):
    """Attributes:
    sender, receiver: ranks; if they are the same, the tensor is copied.
    tensor: what is sent; only read on the sender.
    to: where it goes, of the same shape and contiguous; only read on the receiver.
    """

    sender: int
    receiver: int
    tensor: torch.Tensor | None
    to: torch.Tensor | None


def exchange(messages: Iterable[Message]) -> None:
    """Sends and receives this rank's part of ``messages``, which all ranks concerned give in the same order."""
    rank = get_rank()
    operations = []
    for sender, receiver, tensor, to in messages:
        if sender == receiver == rank:
            assert tensor is not None and to is not None
            to.copy_(tensor)
        elif sender == rank:
            assert tensor is not None
            operations.append(P2POp(isend, tensor.contiguous(), receiver))
        elif receiver == rank:
            assert to is not None
            operations.append(P2POp(irecv, to, sender))
    for work in batch_isend_irecv(operations) if operations else ():
        work.wait()
