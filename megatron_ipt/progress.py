"""Progress bars and logging.

On a terminal, a bar with rate and time left. Otherwise (Slurm logs, pipes), one line at most every ``LOG_SECONDS``
seconds, so that logs of long runs stay readable.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import StorageError

logger = logging.getLogger(__name__)

LOG_SECONDS = 15.0
NOTEBOOK_SECONDS = 0.5
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
"""Of lines of metrics."""


def configure_logging(verbose: bool = False, first_rank: bool = True) -> None:
    """Logs to standard error, one line per message, with the time; if that is not a terminal, also with the date.

    Args:
        verbose: log debug messages, and show warnings raised by libraries.
        first_rank: whether this is the first of several equal processes; the others log errors only.
    """
    if not verbose:
        warnings.simplefilter("ignore")
    handler = logging.StreamHandler()
    time_format = "%H:%M:%S" if sys.stderr.isatty() else "%Y-%m-%d %H:%M:%S"
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", time_format))
    root = logging.getLogger("megatron_ipt")
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR if not first_rank else logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def duration(seconds: float) -> str:
    """``3725`` -> ``1:02:05``; ``65`` -> ``1:05``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(number: int, noun: str) -> str:
    """``1 rank``, ``2 ranks``, ``1,024 ranks``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


class Progress:
    """Shows progress as ``label`` and a count of ``unit`` up to ``total`` (None: unknown).

    Use as a context manager. ``advance`` takes further values to show, e.g. ``advance(1, loss=2.31)``.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "documents", initial: int = 0):
        self.label = label
        self.total = total
        self.unit = unit
        self.done = initial
        self._initial = initial
        self._fields: dict[str, Any] = {}
        self._bar: Any = None
        self._task: Any = None
        self._line: Any = None

    def __enter__(self) -> Progress:
        self._start = self._logged = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, figures="")
            self._bar.start()
        elif (display := _notebook_display()) is not None:
            self._line = display({"text/plain": self._text()}, raw=True, display_id=True)
        return self

    def advance(self, count: int = 1, **fields: Any) -> None:
        self.done += count
        self._fields.update(fields)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, figures=self._figures())
        elif self._line is not None and time.monotonic() - self._logged >= NOTEBOOK_SECONDS:
            self._logged = time.monotonic()
            self._line.update({"text/plain": self._text()}, raw=True)
        elif self._line is None and time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            logger.info("%s", self._text())

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._line is not None:
            self._line.update({"text/plain": self._text()}, raw=True)

    @property
    def rate(self) -> float:
        """``unit`` per second since the start of this run."""
        return (self.done - self._initial) / max(time.monotonic() - self._start, 1e-9)

    def _text(self) -> str:
        return f"{self.label}: {self._figures()}{self._time_left()}"

    def _figures(self) -> str:
        of_total = f"/{self.total:,}" if self.total else ""
        figures = [f"{self.done:,}{of_total} {self.unit}", f"{self.rate:,.1f}/s"]
        figures += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        ]
        return ", ".join(figures)

    def _time_left(self) -> str:
        if not self.total or not self._initial < self.done < self.total:
            return ""
        return f", {duration((self.total - self.done) / self.rate)} left"


class MetricsFile:
    """Lines of figures of a long run, one every few seconds, added to a file. Use as a context manager.

    Args:
        path: the file, as JSON Lines.
        seconds: interval between lines.

    Raises:
        StorageError: it cannot be opened or written.
    """

    def __init__(self, path: Path, seconds: float):
        self._path = path
        self._seconds = seconds

    def __enter__(self) -> MetricsFile:
        try:
            self._stream = open(self._path, "ab")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be opened: {error.strerror or error}") from error
        self._start = self._written = time.monotonic()
        return self

    @property
    def due(self) -> bool:
        """Whether it is time for another line."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, figures: Mapping[str, Any]) -> None:
        """Adds a line: the time, the seconds since the file was opened, and ``figures``."""
        now = self._written = time.monotonic()
        line = {"time": time.strftime(TIME_FORMAT), "seconds": round(now - self._start, 3), **figures}
        try:
            self._stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            self._stream.flush()
        except OSError as error:
            raise StorageError(f"{self._path}: could not be written: {error.strerror or error}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self._stream.close()
        except OSError:
            if error is None:
                raise


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's ``display`` where this process is the kernel of a notebook; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
