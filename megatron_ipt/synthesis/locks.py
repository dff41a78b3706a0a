"""One process at a time on a shard, by a lock that dies with its holder.

``flock`` belongs to the open file, so the kernel releases it however the process ends. The file names the holder for
the message that the second process gets. It is removed while held; whoever then holds a lock on the removed file
notices that the name means another file, or none, and tries again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from megatron_ipt.errors import StageError, StorageError


class ShardLock:
    """Held from construction to :meth:`release`.

    Args:
        path: of the lock file; its folder must exist.

    Raises:
        StageError: another process holds it.
        StorageError: the file system has no locks, or the file cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = _acquire(path)
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def shard_lock(path: Path) -> Iterator[None]:
    """:class:`ShardLock` as a context."""
    lock = ShardLock(path)
    try:
        yield
    finally:
        lock.release()


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{path}: lock file cannot be opened: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            shard = path.parent / path.name.removeprefix(".").removesuffix(".lock")
            raise StageError(
                f"{shard}: {holder} is working on this shard. "
                "Wait for it, or give every process its own share with --shard i/N."
            ) from error
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                raise StorageError(
                    f"{path}: this file system has no file locks ({error.strerror}). Put output_dir on one that has, "
                    "or mount it with locks (Lustre: -o flock)."
                ) from error
            raise StorageError(f"{path}: could not be locked: {error.strerror or error}") from error
        os.close(descriptor)


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
