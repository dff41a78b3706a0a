"""Being asked to stop: a signal sets a flag, the loop looks at it between steps, saves, and leaves.

USR1 is what Slurm sends ahead of a time limit, TERM what it and most supervisors send, INT is Ctrl-C. One rank that
was asked is enough: the flag travels with the loss that all ranks exchange anyway.
"""

from __future__ import annotations

import signal
from types import FrameType

from megatron_ipt.errors import CHECKPOINTED_STATUS, UserError

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
ENDED = "training: ended at once, as asked; the same command goes on from the last checkpoint"
"""Where a stop was too sudden for a checkpoint of its own."""


class Checkpointed(UserError):
    """The training was asked to stop, saved a checkpoint, and continues from it when started again."""

    exit_status = CHECKPOINTED_STATUS


class StopRequest:
    """True once a signal has asked this process to stop; install it from the main thread."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
