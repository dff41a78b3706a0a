"""File I/O: compression by suffix, remote inputs through fsspec, and atomic writes.

Inputs may be any fsspec URL (``s3://``, ``hdfs://``, ...). Outputs are POSIX paths, because atomic renames and memory
maps need them. A file is written under a temporary name in the same folder, synced to disk, and renamed; a crash leaves
at most a hidden ``.NAME.PID.tmp``.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import orjson
import zstandard

from megatron_ipt.errors import InputError, StorageError

COMPRESSIONS = {"none": "", "gz": ".gz", "zst": ".zst"}
"""Recipe value to file suffix."""

_CHUNK = 1 << 20
_DAMAGED = (EOFError, zlib.error, zstandard.ZstdError, OSError)
"""What reading a damaged file raises."""


class _ZstdStream(io.RawIOBase):
    """Decompresses all frames of a stream and, unlike the library's own reader, raises on a truncated one."""

    def __init__(self, source: BinaryIO):
        self._source = source
        self._decoder: Any = None
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            data = self._source.read(_CHUNK)
            if not data:
                if self._decoder is not None:
                    raise EOFError("compressed file ended before the end-of-frame marker was reached")
                return 0
            self._pending = self._decode(data)
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _decode(self, data: bytes) -> bytes:
        pieces = []
        while data:
            if self._decoder is None:
                self._decoder = zstandard.ZstdDecompressor().decompressobj()
            pieces.append(self._decoder.decompress(data))
            if not self._decoder.eof:
                break
            data = self._decoder.unused_data
            self._decoder = None
        return b"".join(pieces)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def is_remote(path: str | Path) -> bool:
    """Whether ``path`` is a URL such as ``s3://bucket/key`` rather than a local path."""
    return "://" in str(path)


def is_file_name(name: str) -> bool:
    """Whether ``name`` can be part of the name of a visible file in a folder."""
    return bool(name) and "/" not in name and not name.startswith(".")


def open_bytes(path: str | Path) -> BinaryIO:
    """Opens ``path`` for reading, decompressing by suffix (.gz, .zst).

    Raises:
        InputError: the file is missing or not readable.
    """
    try:
        if is_remote(path):
            import fsspec

            raw = cast(BinaryIO, fsspec.open(str(path), "rb").open())
        else:
            raw = open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror or error}") from error
    suffix = Path(str(path)).suffix
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if suffix == ".zst":
        return io.BufferedReader(_ZstdStream(raw), _CHUNK)
    return raw


def iter_lines(path: str | Path) -> Iterator[bytes]:
    """Lines of a possibly compressed file, without line endings and without a byte-order mark.

    Raises:
        InputError: the file cannot be opened, or is truncated or damaged; names the last line read.
    """
    number = 0
    with open_bytes(path) as stream:
        try:
            for line in stream:
                number += 1
                yield (line.removeprefix(BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
        except _DAMAGED as error:
            raise InputError(
                f"{path}: damaged or truncated after line {number}: {error}. Restore the file or remove it from the "
                "inputs."
            ) from error


def read_whole(path: str | Path) -> bytes:
    """Content of a possibly compressed file, without a byte-order mark.

    Raises:
        InputError: the file cannot be opened, or is truncated or damaged.
    """
    with open_bytes(path) as stream:
        try:
            return stream.read().removeprefix(BOM_UTF8)
        except _DAMAGED as error:
            raise InputError(f"{path}: damaged or truncated: {error}. Restore the file or leave it out.") from error


@contextmanager
def atomic_path(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary path next to ``path``; it is renamed to ``path`` if the block succeeds, else removed.

    Args:
        flush: sync to disk before and after renaming, so that the file is complete even after a machine crash.

    Raises:
        StorageError: any OSError, such as a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error
    try:
        yield temporary
        put_in_place(temporary, path, flush)
    except OSError as error:
        _remove(temporary)
        raise _storage_error(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder next to ``path``; it replaces ``path`` if the block succeeds, else is removed.

    Raises:
        StorageError: any OSError.
    """
    with atomic_path(path) as temporary:
        _remove(temporary)
        temporary.mkdir()
        yield temporary


def put_in_place(finished: Path, path: Path, flush: bool = True) -> None:
    """Renames the file or folder ``finished`` to ``path``, replacing what is there.

    Raises:
        OSError: renaming or syncing failed.
    """
    if flush:
        _sync(finished)
    if path.is_dir() and finished.is_dir():
        # POSIX cannot rename a folder over a non-empty one.
        old = path.with_name(f".{path.name}.old.tmp")
        _remove(old)
        path.rename(old)
        finished.rename(path)
        _remove(old)
    else:
        finished.replace(path)
    if flush:
        _sync(path.parent)


@contextmanager
def atomic_open(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """``open(path, mode)`` for writing; the file appears only if the block succeeds. See :func:`atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, mode, **options) as stream:
        yield stream


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: could not be written: {error.strerror or error}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_jsonl(path: str | Path) -> Iterator[JsonlWriter]:
    """A :class:`JsonlWriter` whose file appears at ``path`` only if the block succeeds."""
    with atomic_open(path) as raw, JsonlWriter(raw, Path(path).suffix) as writer:
        yield writer


class JsonlWriter:
    """Writes one JSON object per line, compressed by ``suffix`` (``.gz``, ``.zst``, else uncompressed)."""

    def __init__(self, raw: IO[bytes], suffix: str = ""):
        self.records = 0
        self._stream: IO[bytes]
        if suffix == ".gz":
            # A fixed timestamp keeps the bytes reproducible.
            self._stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0))
        elif suffix == ".zst":
            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            self._stream = cast(IO[bytes], compressor.stream_writer(raw, closefd=False))
        else:
            self._stream = raw
        self._owned = self._stream is not raw

    def write(self, record: dict[str, Any]) -> None:
        self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.records += 1

    def write_line(self, line: bytes) -> None:
        """Writes a record that is JSON already, without its line ending."""
        self._stream.write(line)
        self._stream.write(b"\n")
        self.records += 1

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._stream.close()


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Records of a JSON Lines file that this package wrote.

    Raises:
        InputError: a line is not JSON because the file was changed or damaged after it was written.
    """
    for number, line in enumerate(iter_lines(path), 1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not valid JSON: {error}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    with atomic_open(path) as stream:
        stream.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_json(path: str | Path) -> Any:
    """Reads one JSON value.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return orjson.loads(read_whole(path))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


def shard_name(index: int, compression: str = "none") -> str:
    """File name of shard ``index``, e.g. ``shard-00012.jsonl.zst``."""
    return f"shard-{index:05d}.jsonl{COMPRESSIONS[compression]}"


def list_shards(directory: str | Path) -> list[Path]:
    """The JSON Lines shards of ``directory``, in order; empty when it does not exist."""
    return sorted(Path(directory).glob("shard-*.jsonl*"))


def remove_leftovers(directory: Path, name: str = "") -> None:
    """Removes temporary files and folders left by a crashed writer in ``directory``, or only those of file ``name``."""
    for leftover in directory.glob(f".{name}*.tmp"):
        _remove(leftover)
