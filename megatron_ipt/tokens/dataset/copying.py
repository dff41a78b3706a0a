"""Copies bytes from file to file without reading them into this process: ``copy_file_range``, else ``sendfile``.

On file systems with shared extents nothing is copied at all; elsewhere the kernel copies page by page. Memory does not
grow with the number of bytes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from megatron_ipt.errors import InputError

_STEP = 1 << 30
_ELSEWHERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
"""Errors of systems that cannot copy between these two files in the kernel."""


def append_range(path: Path, start: int, count: int, target: int) -> None:
    """Appends ``count`` bytes of ``path``, starting at offset ``start``, to the file descriptor ``target``.

    Raises:
        InputError: the file cannot be opened or ends early.
        OSError: the target cannot be written.
    """
    try:
        source = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror or error}") from error
    try:
        in_kernel = hasattr(os, "copy_file_range")
        while count:
            try:
                step = min(count, _STEP)
                if in_kernel:
                    done = os.copy_file_range(source, target, step, offset_src=start)
                else:
                    done = os.sendfile(target, source, start, step)
            except OSError as error:
                if in_kernel and error.errno in _ELSEWHERE:
                    in_kernel = False
                    continue
                raise
            if not done:
                raise InputError(f"{path}: ends {count} bytes too early; it was changed or damaged")
            start += done
            count -= done
    finally:
        os.close(source)


def write_all(target: int, data: bytes | memoryview) -> None:
    """Writes all of ``data`` to a file descriptor; the system may accept it in pieces."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(target, view) :]
