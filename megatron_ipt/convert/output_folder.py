"""The output of a conversion: a folder that appears when it is complete, written file by file, resumed after a crash.

Everything is written into ``.NAME.partial`` next to the final folder; each finished file leaves a marker with what is
known about it, and the folder is renamed at the end. A rerun with the same source and settings skips finished files;
with others it starts over. Files are written by threads, since nearly all the time is spent in the system and in torch,
which both release Python's lock.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from megatron_ipt.errors import InputError, StageError, StorageError
from megatron_ipt.files import atomic_open, put_in_place, read_json, remove_leftovers, write_json
from megatron_ipt.locks import locked
from megatron_ipt.progress import Progress

_IDENTITY = ".conversion.json"
_LOCK = ".lock"
_MB = 1_000_000
_SPARE = 1_000_000
"""Bytes for the small files of a conversion."""


@contextmanager
def unfinished_folder(final: Path, identity: dict[str, Any], size: int, overwrite: bool = False) -> Iterator[Path]:
    """Yields the folder to write into, which becomes ``final`` when the block succeeds.

    Args:
        identity: what the output depends on; output of an earlier attempt with another identity is discarded.
        size: total number of bytes that will be written.
        overwrite: replace ``final`` if it exists.

    Raises:
        StageError: ``final`` exists, or another process is writing it.
        StorageError: the disk is too small, or a folder cannot be written.
    """
    if final.exists() and not overwrite:
        raise StageError(f"{final}: exists already; choose another folder, or use --overwrite to replace it")
    partial = final.with_name(f".{final.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial / _LOCK, final):
            _continue_or_clear(partial, identity)
            _check_space(partial, final, size)
            yield partial
            for hidden in partial.glob(".*"):
                if hidden.name.endswith(".done.json") or hidden.name in (_IDENTITY, _LOCK):
                    hidden.unlink()
            put_in_place(partial, final)
    except OSError as error:
        raise StorageError(f"{final}: could not be written: {error.strerror or error}") from error


def _continue_or_clear(partial: Path, identity: dict[str, Any]) -> None:
    known = partial / _IDENTITY
    remove_leftovers(partial)
    try:
        same = known.exists() and read_json(known) == identity
    except InputError:
        same = False
    if not same:
        for path in partial.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(known, identity)


def _check_space(partial: Path, final: Path, size: int) -> None:
    written = sum(path.stat().st_size for path in partial.iterdir())
    free = shutil.disk_usage(partial).free
    needed = max(0, size - written) + _SPARE
    if needed > free:
        raise StorageError(
            f"{final}: needs {needed / _MB:,.0f} MB, {free / _MB:,.0f} MB are free on that disk; free some space or "
            "choose another folder"
        )


class Output:
    """Part of a file being written, starting at ``position``: counts and hashes the bytes."""

    def __init__(self, descriptor: int, position: int = 0):
        self._descriptor = descriptor
        self._hash = xxhash.xxh3_128()
        self.position = position

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        while view:
            count = os.pwrite(self._descriptor, view, self.position)
            self.position += count
            view = view[count:]

    @property
    def checksum(self) -> str:
        """XXH3 (128 bits, hexadecimal) of everything that was written."""
        return str(self._hash.hexdigest())


@dataclass(frozen=True)
class Segment:
    """A part of a file that is written independently of the others.

    Attributes:
        position: first byte.
        write: writes it; returns what to record about it, by name.
    """

    position: int
    write: Callable[[Output], dict[str, Any]]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keeps torch from starting threads inside each worker: on blocks this small they only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Workers:
    """Threads that write the files of one folder.

    Args:
        label: for the progress bar.
        total: bytes of all tensors.
        threads: number of segments written at a time.
    """

    def __init__(self, label: str, total: int, threads: int):
        self._label, self._total, self._threads = label, total, threads
        self._lock = threading.Lock()
        self._stopped = False
        self._counted = 0
        self._bar: Progress | None = None

    def run(self, folder: Path, files: dict[str, list[Segment]]) -> dict[str, dict[str, Any]]:
        """Writes ``files``; returns what is known about each.

        The record of a file is the union of those of its segments, and ``bytes``; for a file of one segment also its
        ``checksum``.

        Raises:
            Exception: whatever a segment raises; the others are stopped, and finished files are kept for a rerun.
        """
        records = {name: record for name in files if (record := _finished(folder, name)) is not None}
        with (
            Progress(self._label, self._total // _MB, "MB") as self._bar,
            one_thread_each(),
            ThreadPoolExecutor(self._threads) as pool,
        ):
            self.advance(sum(record["bytes"] for record in records.values()))
            waiting = {name: _File(folder / name, files[name]) for name in files if name not in records}
            try:
                futures = {
                    pool.submit(file.write, segment): name
                    for name, file in waiting.items()
                    for segment in file.segments
                }
                for future in as_completed(futures):
                    name = futures[future]
                    if waiting[name].take(future.result()):
                        records[name] = waiting.pop(name).finish()
                        write_json(_marker(folder, name), records[name])
            except BaseException as error:
                self._stopped = True
                pool.shutdown(cancel_futures=True)
                for file in waiting.values():
                    file.discard(error)
                raise
        return {name: records[name] for name in files}

    def advance(self, size: int) -> None:
        """Counts ``size`` bytes of tensors as done.

        Raises:
            StageError: another thread has failed, and this one should stop.
        """
        if self._stopped:
            raise StageError(f"{self._label}: stopped")
        with self._lock:
            before = self._counted // _MB
            self._counted += size
            if self._bar is not None:
                self._bar.advance(self._counted // _MB - before)


class _File:
    """A file whose segments are being written."""

    def __init__(self, path: Path, segments: list[Segment]):
        self.segments = segments
        self._left = len(segments)
        self._record: dict[str, Any] = {}
        self._end = 0
        self._open = ExitStack()
        self._lock = threading.Lock()
        self._path = path
        self._descriptor: int | None = None

    def write(self, segment: Segment) -> dict[str, Any]:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._open.enter_context(atomic_open(self._path)).fileno()
        output = Output(self._descriptor, segment.position)
        record = segment.write(output)
        checksum = {"checksum": output.checksum} if len(self.segments) == 1 else {}
        return {**record, **checksum, "bytes": output.position}

    def take(self, record: dict[str, Any]) -> bool:
        """Adds what is known about a segment; returns whether it was the last."""
        for name, value in record.items():
            if name == "bytes":
                self._end = max(self._end, value)
            elif isinstance(value, dict):
                self._record[name] = {**self._record.get(name, {}), **value}
            else:
                self._record[name] = value
        self._left -= 1
        if self._left and self._descriptor is not None:
            # Lets the disk work while the other segments are being written, instead of at the end.
            os.fdatasync(self._descriptor)
        return self._left == 0

    def finish(self) -> dict[str, Any]:
        """Gives the file its final name."""
        self._open.close()
        return {**self._record, "bytes": self._end}

    def discard(self, error: BaseException) -> None:
        """Removes what was written."""
        try:
            self._open.__exit__(type(error), error, error.__traceback__)
        except StorageError:
            # The first error is the one to show.
            return


def _marker(folder: Path, name: str) -> Path:
    return folder / f".{name}.done.json"


def _finished(folder: Path, name: str) -> dict[str, Any] | None:
    """What is known about a file that an earlier attempt finished; None if it did not."""
    marker = _marker(folder, name)
    if not marker.exists() or not (folder / name).exists():
        return None
    record: dict[str, Any] = read_json(marker)
    return record if (folder / name).stat().st_size == record["bytes"] else None
