"""The journal of a shard: chains in the order in which they finish, so that a crash loses only what was in flight.

A record is its chain's number, its length, a checksum and the payload, written with one ``write`` the moment the chain
is finished: killing the process loses no finished chain. ``fsync`` runs in batches: a power failure loses about a
second. A chain that is to be made again is dropped by a record without payload: nothing in the file is changed, and the
last record of a chain is the one that counts. When the journal is reopened, a torn record is detected by its length or
checksum and cut off together with all that follow; those chains are made again. Offsets are kept in an array, 8 bytes
per chain.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

import xxhash

from megatron_ipt.errors import StageError, StorageError

logger = logging.getLogger(__name__)

_MAGIC = b"IPTJRNL1"
_HEADER = struct.Struct("<8sQ")
_RECORD = struct.Struct("<IIQ")
_READ_BYTES = 1 << 20
_DROPPED = 0xFFFF_FFFF
"""In place of a length: the chain is no longer in the journal."""


class Journal:
    """Append-only store of one payload per chain. The caller holds the shard's lock.

    Args:
        path: the file; created if missing.
        identity: 64 bits that identify input and settings; a journal with a different identity is rejected.

    Raises:
        StageError: the file was made from other input or settings.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, identity: int):
        self.path = path
        self._offsets = array("Q")
        self._count = 0
        self._dirty = False
        self._mutex = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{path}: journal cannot be opened: {error.strerror or error}") from error
        try:
            self._end = self._recover(identity)
        except OSError as error:
            os.close(self._descriptor)
            raise StorageError(f"{path}: journal cannot be read: {error.strerror or error}") from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def __len__(self) -> int:
        return self._count

    def __contains__(self, index: int) -> bool:
        return index < len(self._offsets) and self._offsets[index] != 0

    def __iter__(self) -> Iterator[int]:
        """Numbers of the chains it holds."""
        return (index for index, offset in enumerate(self._offsets) if offset)

    def append(self, index: int, payload: bytes) -> None:
        """Stores the payload of chain ``index``.

        Raises:
            StorageError: for example, the disk is full. Nothing of the record remains.
        """
        if index in self:
            raise RuntimeError(f"{self.path}: chain {index} was finished twice")
        place = self._add(_RECORD.pack(index, len(payload), _checksum(index, payload)) + payload)
        self._note(index, place)

    def drop(self, index: int) -> None:
        """Takes chain ``index`` out, so that it can be made and stored again.

        Raises:
            StorageError: for example, the disk is full. The chain is still there.
        """
        if index in self:
            self._add(_RECORD.pack(index, _DROPPED, _checksum(index, b"")))
            self._forget(index)

    def _add(self, record: bytes) -> int:
        """Writes a record at the end; returns its place."""
        try:
            self._write(record, self._end)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise StorageError(
                f"{self.path}: could not be written: {error.strerror or error}. Finished texts are kept; free some "
                "space and rerun."
            ) from error
        place = self._end
        self._end += len(record)
        self._dirty = True
        return place

    def sync(self) -> None:
        """Flushes all records to disk. May be called from another thread, also after :meth:`close`."""
        with self._mutex:
            if self._descriptor >= 0 and self._dirty:
                self._dirty = False
                try:
                    os.fsync(self._descriptor)
                except OSError as error:
                    raise StorageError(f"{self.path}: could not be written: {error.strerror or error}") from error

    def payload(self, index: int) -> bytes:
        """What was stored for chain ``index``.

        Raises:
            StageError: it is missing, or no longer what was written.
        """
        if index in self:
            _, length, checksum = _RECORD.unpack(os.pread(self._descriptor, _RECORD.size, self._offsets[index]))
            payload = os.pread(self._descriptor, length, self._offsets[index] + _RECORD.size)
            if _checksum(index, payload) == checksum:
                return payload
        raise StageError(f"{self.path}: chain {index} is missing or damaged. Delete this file to make the shard again.")

    def close(self) -> None:
        try:
            self.sync()
        finally:
            with self._mutex:
                if self._descriptor >= 0:
                    os.close(self._descriptor)
                    self._descriptor = -1

    def _recover(self, identity: int) -> int:
        """Reads what is there, cuts off a torn tail, and returns the end."""
        size = os.fstat(self._descriptor).st_size
        header = _HEADER.pack(_MAGIC, identity)
        found = os.pread(self._descriptor, _HEADER.size, 0)
        if len(found) < _HEADER.size or found == bytes(_HEADER.size):
            os.ftruncate(self._descriptor, 0)
            self._write(header, 0)
            os.fsync(self._descriptor)
            return _HEADER.size
        if found != header:
            raise StageError(
                f"{self.path}: was started with other documents or settings. Delete it to restart the shard, or use "
                "another output_dir."
            )
        end = _HEADER.size
        for index, length, dropped in self._records(end):
            if dropped:
                self._forget(index)
            else:
                self._note(index, end)
            end += length
        if end < size:
            logger.warning("%s: cutting off the last %d bytes, which a crash left incomplete", self.path, size - end)
            os.ftruncate(self._descriptor, end)
        return end

    def _records(self, position: int) -> Iterator[tuple[int, int, bool]]:
        """Chain, length, and whether it drops the chain, of every complete record from ``position`` on."""
        buffer = b""
        while True:
            more = os.pread(self._descriptor, _READ_BYTES, position + len(buffer))
            buffer += more
            used = 0
            while len(buffer) - used >= _RECORD.size:
                index, length, checksum = _RECORD.unpack_from(buffer, used)
                dropped = length == _DROPPED
                length = 0 if dropped else length
                stop = used + _RECORD.size + length
                if stop > len(buffer):
                    break
                if _checksum(index, buffer[used + _RECORD.size : stop]) != checksum:
                    return
                yield index, stop - used, dropped
                used = stop
            if not more:
                return
            buffer = buffer[used:]
            position += used

    def _note(self, index: int, offset: int) -> None:
        if index >= len(self._offsets):
            self._offsets.extend([0] * (index + 1 - len(self._offsets)))
        self._count += not self._offsets[index]
        self._offsets[index] = offset

    def _forget(self, index: int) -> None:
        if index in self:
            self._offsets[index] = 0
            self._count -= 1

    def _write(self, data: bytes, offset: int) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], offset + written)


def payloads_in(path: Path) -> Iterator[bytes]:
    """Payloads of a journal that another process may be writing, up to its torn tail; of each chain the last one.

    Changes nothing, where opening a :class:`Journal` repairs it. None if there is no file.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return
    kept: dict[int, bytes] = {}
    position = _HEADER.size
    while len(data) - position >= _RECORD.size:
        index, length, checksum = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if length == _DROPPED:
            kept.pop(index, None)
            continue
        payload = data[position : position + length]
        if len(payload) < length or _checksum(index, payload) != checksum:
            break
        kept[index] = payload
        position += length
    yield from kept.values()


def _checksum(index: int, payload: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(payload, seed=index))
