"""One rank of a training job on a cluster, under torchrun.

    python -m megatron_ipt.cluster.watch.watched_rank JOB.json

The same as :mod:`megatron_ipt.training.ranks.worker`, with a thread that records every ``INTERVAL`` seconds what the
rank is doing: the Python line, the collective operation it waits in, for how long. That is what tells a hanging rank
from those that wait for it, with any backend; NCCL's own flight recorder goes to the same folder.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import orjson

from megatron_ipt.errors import StorageError
from megatron_ipt.files import atomic_path

INTERVAL = float(os.environ.get("MEGATRON_IPT_WATCH_SECONDS", 15))
_COLLECTIVES = ("distributed_c10d.py",)


class StateWriter(threading.Thread):
    """Writes ``rank-R.state.json`` into ``folder`` until the process ends."""

    def __init__(self, folder: Path, rank: int, interval: float = INTERVAL):
        super().__init__(daemon=True, name="state writer")
        self._path = folder / f"rank-{rank}.state.json"
        self._rank = rank
        self._interval = interval
        self._ended = threading.Event()
        self._main = threading.main_thread().ident
        self._signature: tuple[tuple[str, int], ...] = ()
        self._since = time.monotonic()

    def run(self) -> None:
        beat = 0
        while not self._ended.wait(self._interval if beat else 0):
            frame = sys._current_frames().get(self._main or 0)
            if frame is not None:
                beat += 1
                self._write(frame, beat)

    def end(self) -> None:
        """Call before the interpreter ends: threads that outlive it can bring the process down."""
        self._ended.set()
        self.join()

    def _write(self, frame: FrameType, beat: int) -> None:
        stack = _stack(frame)
        signature = tuple((found.f_code.co_filename, found.f_lasti) for found in stack)
        if signature != self._signature:
            self._signature, self._since = signature, time.monotonic()
        state = {
            "rank": self._rank,
            "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
            "beat": beat,
            "still": time.monotonic() - self._since,
            **describe(stack),
        }
        try:
            with atomic_path(self._path, flush=False) as temporary:
                temporary.write_bytes(orjson.dumps(state))
        except StorageError:
            # A full disk must not end a training that would itself survive it.
            return


def describe(stack: list[FrameType]) -> dict[str, str]:
    """``collective`` and ``place`` of a stack, innermost frame first."""
    collective = place = ""
    for frame in stack:
        file = Path(frame.f_code.co_filename)
        name = frame.f_code.co_name
        if file.name in _COLLECTIVES and not place:
            # The outermost of its functions is the one that was called; wrappers lie between.
            collective = collective if name == "wrapper" else name
        elif "megatron_ipt" in file.parts and not place:
            place = f"{file.name}:{frame.f_lineno} {name}"
    return {"collective": collective, "place": place}


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def main(job: Path) -> int:
    """Runs the job as this rank; returns its exit status."""
    from megatron_ipt.training.ranks import worker
    from megatron_ipt.training.ranks.job import Job

    writer = StateWriter(Job.read(job).report, int(os.environ.get("RANK", 0)))
    writer.start()
    try:
        return worker.main(job)
    finally:
        writer.end()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
