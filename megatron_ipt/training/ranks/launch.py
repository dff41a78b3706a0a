"""torchrun without its wall of tracebacks, and with the exit status of the rank that failed first.

Takes torchrun's arguments. Ranks report their errors themselves (see ``worker.py``). USR1 is forwarded to the ranks,
which then save and exit with their own status, instead of ending torchrun. If the parent process ends, so do torchrun
and the ranks.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

from megatron_ipt.training.ranks.processes import end_with_parent


def main(arguments: list[str]) -> int:
    """Runs torchrun; returns 0 if every rank succeeded, else the status of the first that failed."""
    end_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGUSR1, _forward)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        torchrun(arguments)
    except ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _forward(number: int, frame: FrameType | None) -> None:
    import psutil

    for child in psutil.Process().children():
        child.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
