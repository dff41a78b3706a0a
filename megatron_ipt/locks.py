"""One process at a time, by a lock that dies with its holder.

``flock`` belongs to the open file, so the kernel releases it however the process ends. The file names the holder, for
the message that the second process gets. A lock file may be removed while it is held: whoever then locks the removed
file notices that the name means another file, or none, and tries again.
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

_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


@contextlib.contextmanager
def locked(
    path: Path, what: str | Path, *, shared: bool = False, wait: bool = False, remove: bool = False, advice: str = ""
) -> Iterator[None]:
    """Holds the lock file ``path``.

    Args:
        what: is protected, for the message.
        shared: let others hold it too that share it.
        wait: for other holders, instead of refusing; for locks that are held for a short time.
        remove: the file at the end, where locks are many; not for shared ones.
        advice: what the second process is told to do.

    Raises:
        StageError: another process holds it.
        StorageError: the file system has no locks, or the file cannot be written.
    """
    descriptor = _acquire(path, what, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX), wait, advice)
    try:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            if not shared:
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, what: str | Path, kind: int, wait: bool, advice: str) -> int:
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
            if _is_file_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            message = f"{what}: {holder} is working on it (lock {path})."
            raise StageError(f"{message} {advice}" if advice else message) from error
        except BaseException as error:
            os.close(descriptor)
            if not isinstance(error, OSError):
                raise
            if error.errno in _NO_LOCKS:
                raise StorageError(
                    f"{path}: this file system has no file locks ({error.strerror}). Put output_dir on one that has, "
                    "or mount it with locks (Lustre: -o flock)."
                ) from error
            raise StorageError(f"{path}: could not be locked: {error.strerror or error}") from error
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: lock file cannot be opened: {error.strerror or error}") from error


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
