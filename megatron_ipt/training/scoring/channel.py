"""The connection between the process that has texts and the ranks that score them: a socket in a private folder.

Every rank has a connection of its own, which ends with the process at either end, however that ends: the ranks never
outlive the process that started them, and that process never waits for a rank that is gone.
"""

from __future__ import annotations

import os
import queue
import socket
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.training.scoring.texts import MicroBatch

_LONGEST_FOLDER = 60
"""Bytes in the path of the folder for temporary files; systems allow 104 or 108 in a socket's path."""


@dataclass(frozen=True)
class Ready:
    """A rank has loaded its part of the model.

    Attributes:
        copy: which copy of the model it belongs to.
        reports: whether it is the one rank of its copy that sends :class:`Done`.
        precision: in which it computes.
    """

    copy: int
    reports: bool
    precision: str


@dataclass(frozen=True)
class Work:
    """Micro-batches for all ranks of one copy."""

    number: int
    batches: list[MicroBatch]


@dataclass(frozen=True)
class Done:
    """Sums of log-probabilities [batch] for each micro-batch of the :class:`Work` with this number."""

    number: int
    sums: list[npt.NDArray[np.float64]]


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder whose path is short enough for a socket in it, wherever others are."""
    is_long = len(os.fsencode(tempfile.gettempdir())) > _LONGEST_FOLDER
    return tempfile.TemporaryDirectory(prefix="megatron-ipt-scoring-", dir="/tmp" if is_long else None)


def listen(folder: Path) -> socket.socket:
    """A socket in ``folder`` that ranks can connect to."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.listen(socket.SOMAXCONN)
    return server


def accept(server: socket.socket) -> Connection:
    """The connection of the next rank."""
    return Connection(server.accept()[0].detach())


class RankChannel:
    """A rank's end. A thread receives work while the rank computes, so that the sender need not wait for it."""

    def __init__(self, address: str):
        self._connection = Client(address, "AF_UNIX")
        self._received: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    def ready(self, message: Ready) -> None:
        """Announces this rank, and begins to receive work."""
        self._connection.send(message)
        threading.Thread(target=self._receive, daemon=True, name="scoring channel").start()

    def next(self) -> Work | None:
        """Waits for work; None when there will be no more."""
        return self._received.get()

    def send(self, message: Done) -> None:
        self._connection.send(message)

    def _receive(self) -> None:
        work: Any = ...
        while work is not None:
            try:
                work = self._connection.recv()
            except (EOFError, OSError):
                # Nobody is left to compute for, whatever the main thread is waiting for.
                os._exit(1)
            self._received.put(work)
