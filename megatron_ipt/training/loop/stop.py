"""Stop requests: a signal sets a flag; between steps, the loop checks it, saves a checkpoint and exits.

USR1 is what Slurm sends before a time limit, TERM what Slurm and most supervisors send to stop, INT is Ctrl-C. Asking
one rank is enough: the flag travels with the loss, which all ranks exchange anyway.
"""

from __future__ import annotations

import signal
from types import FrameType

from megatron_ipt.errors import CHECKPOINTED_STATUS, UserError

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
ENDED = "training: stopped immediately, as asked; rerun the same command to resume from the last checkpoint"
"""Message of a stop without a new checkpoint."""


class Checkpointed(UserError):
    """The training was asked to stop and has saved a checkpoint; rerunning resumes from it."""

    exit_status = CHECKPOINTED_STATUS


class StopRequest:
    """Whether a signal has asked this process to stop; install it from the main thread."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
