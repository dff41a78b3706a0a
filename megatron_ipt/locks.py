"""File locks that are released when their process ends.

``flock`` belongs to the open file, so the kernel releases it however the process ends. The file contains the holder,
for the error message of a second process. A lock file may be removed while it is held: a process that then locks the
removed file notices that the path refers to another file, or to none, and retries.
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
        path: the lock file; created if missing.
        what: name of the protected resource, for error messages.
        shared: take a shared lock, which other processes can hold at the same time.
        wait: block until the lock is free instead of raising; for locks that are held briefly.
        remove: delete the file on release, if there are many locks; not for shared locks.
        advice: added to the error message: what to do if the lock is held.

    Raises:
        StageError: another process holds the lock.
        StorageError: the file system does not support locks, or the file cannot be written.
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
                    f"{path}: this file system does not support file locks ({error.strerror}). Put output_dir on one "
                    "that does, or mount it with locks (Lustre: -o flock)."
                ) from error
            raise StorageError(f"{path}: cannot be locked: {error.strerror or error}") from error
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: lock file cannot be opened: {error.strerror or error}") from error


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        current = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(current, os.fstat(descriptor))
