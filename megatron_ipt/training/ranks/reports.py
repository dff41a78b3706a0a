"""The folder in which the ranks of a run report to whatever launched them.

Each rank leaves its process id, and if it fails, either the message of an error for the user or a traceback; rank 0
leaves the counts for the manifest. The launcher may be on another node, so files are the one channel that always works.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ipt import errors
from megatron_ipt.errors import UserError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.training.loop.stop import Checkpointed

_BROKEN_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "DistBackendError", "Broken pipe")


class RankReports:
    """What the ranks have reported in ``folder``, which exists."""

    def __init__(self, folder: Path):
        self.folder = folder

    def pid_file(self, rank: int) -> Path:
        """Holds the process id of ``rank`` as soon as it can be signalled."""
        return self.folder / f"rank-{rank}.pid"

    def write_error(self, rank: int, error: UserError) -> None:
        """Leaves the message of an error that ended ``rank``."""
        write_json(
            self.folder / f"rank-{rank}.error.json",
            {"error": type(error).__name__, "message": str(error), "status": error.exit_status},
        )

    def write_counts(self, counts: dict[str, Any]) -> None:
        """Leaves rank 0's counts for the manifest."""
        write_json(self._counts_file, counts)

    def trace_uncaught_errors(self, rank: int) -> None:
        """From now on, an uncaught error of this process leaves its traceback here instead of on the terminal."""
        path = self.folder / f"rank-{rank}.traceback"

        def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            path.write_text("".join(traceback.format_exception(kind, error, trace)))

        sys.excepthook = report

    def counts(self) -> dict[str, Any] | None:
        """Counts of rank 0; None if it did not finish."""
        return read_json(self._counts_file) if self._counts_file.exists() else None

    def error(self) -> UserError | None:
        """The error that a rank reported, as it was raised there; None if no rank reported one."""
        for path in sorted(self.folder.glob("rank-*.error.json")):
            outcome = read_json(path)
            if outcome["error"] == Checkpointed.__name__:
                return Checkpointed(outcome["message"])
            kind: type[UserError] = getattr(errors, outcome["error"], UserError)
            return kind(outcome["message"])
        return None

    def tracebacks(self) -> dict[str, str]:
        """Tracebacks of uncaught errors by rank (``rank-3``), in the order in which they were written."""
        paths = sorted(self.folder.glob("rank-*.traceback"), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: path.read_text() for path in paths}

    def first_failure(self) -> tuple[str, str] | None:
        """(rank, traceback) of the first rank that failed on its own, not because another one had disconnected."""
        for rank, text in self.tracebacks().items():
            if not any(sign in text for sign in _BROKEN_CONNECTION):
                return rank, text
        return None

    @property
    def _counts_file(self) -> Path:
        return self.folder / "counts.json"
