"""Only one copy of a job trains at a time, even if the other copy is on a node that Slurm considers lost.

When a node's slurmd dies, Slurm starts the job elsewhere while the old processes may still run. File locks do not help:
on some cluster file systems they are local to a node. So the running copy renews a *lease*, a small file with a
counter, every ``BEAT`` seconds. A new copy writes a *claim*. The holder sees it at its next beat, stops its ranks and
removes the lease. A holder whose counter does not change for ``STALE`` seconds, by the clock of the new copy, is
presumed dead. If it was only suspended, it finds another name in the lease when it resumes, and stops. Clocks of
different nodes are never compared.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.files import read_json, write_json

BEAT = 2.0
STALE = 60.0


@dataclass(frozen=True)
class Holder:
    """A copy of a job: Slurm's id and number of restarts, and where it runs."""

    job: str
    restart: int
    node: str
    id: str

    @classmethod
    def of_this_process(cls) -> Holder:
        return cls(
            os.environ.get("SLURM_JOB_ID", f"process {os.getpid()}"),
            int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            os.environ.get("SLURMD_NODENAME", socket.gethostname()),
            uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"job {self.job} (start {self.restart + 1}) on {self.node}"


class Lease:
    """The right to train into one folder.

    Args:
        path: of the lease file; the claim is a file next to it.
        holder: this copy.
        is_running: whether a job runs, according to Slurm; a running job is not replaced by a different one.
    """

    def __init__(self, path: Path, holder: Holder, is_running: Callable[[str], bool], stale: float = STALE):
        self._path = path
        self._claim = path.with_name(f"{path.name}.claim")
        self._holder = holder
        self._is_running = is_running
        self._stale = stale
        self._beat = 0
        self._last = time.monotonic()

    def acquire(self) -> str:
        """Takes the lease, from another copy if necessary; returns what happened, for the log.

        Raises:
            StageError: another job holds it and is running.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        story = ""
        held = self._read(self._path)
        if held is not None and held["id"] != self._holder.id:
            other = Holder(held["job"], held["restart"], held["node"], held["id"])
            if other.job != self._holder.job and self._is_running(other.job):
                raise StageError(
                    f"training: {other} already trains into {self._path.parent}; wait for it, or scancel it first"
                )
            story = self._push_out(other, held["beat"])
        self._write(self._path, 0)
        self._claim.unlink(missing_ok=True)
        self._last = time.monotonic()
        return story

    def _push_out(self, other: Holder, beat: int) -> str:
        self._write(self._claim, 0)
        moved = time.monotonic()
        while time.monotonic() - moved < self._stale:
            time.sleep(min(BEAT, self._stale) / 4)
            held = self._read(self._path)
            if held is None or held["id"] != other.id:
                return f"{other} was still running and has stopped"
            if held["beat"] != beat:
                beat, moved = held["beat"], time.monotonic()
        return f"{other} has not renewed the lease for {self._stale:.0f} s and is presumed dead"

    def renew(self) -> str:
        """Call every few seconds; returns why this copy must stop now, or nothing."""
        now = time.monotonic()
        if now - self._last < BEAT:
            return ""
        try:
            held = self._read(self._path)
            if held is None or held["id"] != self._holder.id:
                return "another copy of this job has taken over"
            claim = self._read(self._claim)
            if claim is not None and claim["id"] != self._holder.id:
                return f"job {claim['job']} (start {claim['restart'] + 1}) on {claim['node']} takes over"
            self._beat += 1
            self._write(self._path, self._beat)
        except (OSError, UserError) as error:
            # A holder that the others cannot see is presumed dead by them, and must have stopped by then.
            return f"the lease cannot be renewed: {error}" if now - self._last > self._stale / 2 else ""
        self._last = now
        return ""

    def release(self) -> None:
        """Gives the lease back, if it is still this copy's."""
        try:
            held = self._read(self._path)
            if held is not None and held["id"] == self._holder.id:
                self._path.unlink(missing_ok=True)
        except (OSError, UserError):
            return

    def _write(self, path: Path, beat: int) -> None:
        write_json(path, {**asdict(self._holder), "beat": beat})

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            return dict(read_json(path)) if path.exists() else None
        except UserError:
            # Removed between the check and the read.
            if path.exists():
                raise
            return None
