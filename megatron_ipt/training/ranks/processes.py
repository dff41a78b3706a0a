"""Processes that must not outlive each other, and signals to a process with everything that it started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

_PARENT_DEATH_SIGNAL = 1


def end_with_parent(number: signal.Signals) -> None:
    """Asks Linux to send ``number`` to this process when its parent ends for any reason; does nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(number))


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals ``process``, which leads a session, and all processes in its group; ignored if they have ended."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def end_group(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ends ``process`` and its group if they still run: TERM first, then KILL after ``patience`` seconds."""
    if process.poll() is None:
        signal_group(process, signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            signal_group(process, signal.SIGKILL)
            process.wait()
