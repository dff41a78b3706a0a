"""Writes the state of a run to disk, in this process or in the background, and verifies that it is there.

Megatron-Core plans the writing and forks writers; four of its pitfalls are handled here. Without psutil the writers
hang. Their result queue starts a manager process that outlives a killed rank: a file replaces it. The writers
themselves would also outlive it and wait forever: the system ends them with the process they belong to. And nothing is
verified after writing: here every file is read back for a checksum, and the checkpoint's own table of contents is
compared with the file sizes, before the folder becomes a checkpoint.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import queue
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil  # noqa: F401  Megatron-Core's writer needs it and waits for ever without it.
import torch
import xxhash
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.errors import StorageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.training.ranks.processes import end_with_parent

_RESULTS = ".results-{rank}"
_CHECKSUMS = ".checksums-{rank}.json"
_CHUNK = 1 << 24


def checksum(path: Path) -> str:
    """XXH3, 128 bits, of a file's content."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Writer:
    """Writes one checkpoint at a time; every rank calls every method.

    Args:
        content: describes the form of the optimizer state, for loading.
    """

    def __init__(self, content: dict[str, Any]):
        self._content = content
        self._strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=2, cached_metadata=True)
        self._checked = False
        self._folder: Path | None = None
        self._request: AsyncRequest | None = None
        self._process: Any = None

    @property
    def folder(self) -> Path | None:
        """The folder that is being written, until :meth:`finish`."""
        return self._folder

    def start(self, state: dict[str, Any], folder: Path, beside: bool) -> None:
        """Takes a snapshot of ``state`` and writes it into the empty ``folder``.

        Args:
            beside: return as soon as the snapshot is taken, and write in a forked process.

        Raises:
            StorageError: writing failed.
        """
        rank = torch.distributed.get_rank()
        filesystem_async._results_queue = _ResultFile(folder / _RESULTS.format(rank=rank))
        with _as_storage_error(folder):
            request = dist_checkpointing.save(
                state,
                str(folder),
                sharded_strategy=self._strategy,
                # What each rank holds does not change during the run.
                validate_access_integrity=not self._checked,
                async_sharded_save=True,
                content_metadata=self._content,
            )
            self._checked = True
            self._folder, self._request = folder, request
            arguments = list(request.async_fn_args)
            if request.preload_fn is not None:
                arguments[1] = request.preload_fn()
            job = (request.async_fn, arguments, request.async_fn_kwargs, folder / _CHECKSUMS.format(rank=rank))
            if beside:
                self._process = multiprocessing.get_context("fork").Process(target=_write_beside, args=job)
                self._process.start()
            else:
                _write(*job)

    def is_writing(self) -> bool:
        """Whether this rank is still writing its part."""
        return self._process is not None and self._process.is_alive()

    def finish(self) -> None:
        """Waits for all ranks and completes the folder, which is then a full checkpoint.

        Raises:
            StorageError: a part could not be written.
        """
        assert self._folder is not None and self._request is not None
        folder, request = self._folder, self._request
        if self._process is not None:
            self._process.join()
        self._folder = self._request = self._process = None
        torch.distributed.barrier()
        with _as_storage_error(folder):
            for finalize in request.finalize_fns:
                finalize()


def _end_with_the_run() -> None:
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        # The parent ended before the signal was requested.
        os._exit(1)


_write_bucket = filesystem_async.FileSystemWriterAsync.write_preloaded_data


@functools.wraps(_write_bucket)
def _write_and_end_with_the_run(*arguments: Any, **options: Any) -> None:
    _end_with_the_run()
    _write_bucket(*arguments, **options)


# Megatron-Core looks this function up when it forks a process for each bucket.
filesystem_async.FileSystemWriterAsync.write_preloaded_data = staticmethod(_write_and_end_with_the_run)


def _write_beside(*job: Any) -> None:
    _end_with_the_run()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _write(*job)


def _write(function: Any, arguments: list[Any], options: dict[str, Any], checksums: Path) -> None:
    if function is None:
        return
    function(*arguments, **options)
    paths = [Path(bucket[0]) for bucket in arguments[1]]
    # Writing a file that is missing here has failed, which the results report.
    write_json(checksums, {path.name: checksum(path) for path in paths if path.exists()})


def collect_checksums(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes and checksums of all files of a finished folder, after checking that they are complete.

    Raises:
        StorageError: a file is shorter than the table of contents says.
    """
    checksums: dict[str, str] = {}
    for path in folder.glob(_CHECKSUMS.format(rank="*")):
        checksums |= read_json(path)
        path.unlink()
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    contents = FileSystemReader(folder).read_metadata()
    for item in contents.storage_data.values():
        if item.offset + item.length > files.get(item.relative_path, 0):
            raise StorageError(f"{folder / item.relative_path}: shorter than what was written to it; is the disk full?")
    return files, {name: checksums.get(name) or checksum(folder / name) for name in files}


def damaged(folder: Path, checksums: dict[str, str], names: Iterable[str]) -> str | None:
    """The first of the files ``names`` whose content is not what was written; None if all are intact."""
    for name in names:
        if name in checksums and checksum(folder / name) != checksums[name]:
            return f"{folder / name}: its content is not what was written (checksum): damaged"
    return None


class _ResultFile:
    """Returns the results of a writer to the process that started it: a queue of length one, as a file."""

    def __init__(self, path: Path):
        self._path = path

    def put(self, results: Any) -> None:
        self._path.write_bytes(pickle.dumps(results))

    def get_nowait(self) -> Any:
        if not self._path.exists():
            raise queue.Empty
        results = pickle.loads(self._path.read_bytes())
        self._path.unlink()
        return results


class _as_storage_error:
    """Turns any error of a failed write into one message, and removes the folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, (OSError, CheckpointException, CheckpointingException, RuntimeError)):
            return
        free = shutil.disk_usage(self._folder.parent).free
        shutil.rmtree(self._folder, ignore_errors=True)
        raise StorageError(
            f"{self._folder}: could not be written: {last_line(error)} ({free / 1e6:,.1f} MB were free on the disk). "
            "The previous checkpoint is intact; free disk space or lower training.checkpoint.keep_last, then rerun the "
            "same command."
        ) from error


def last_line(error: BaseException) -> str:
    """The last line of an error that contains tracebacks of ranks, without the class name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    head, _, rest = lines[-1].partition(": ")
    return rest if rest and head.endswith(("Error", "Exception")) else lines[-1]
