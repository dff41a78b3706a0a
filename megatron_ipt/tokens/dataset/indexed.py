"""Megatron indexed datasets: ``PREFIX.bin`` contains token ids, concatenated, ``PREFIX.idx`` where each document is.

Layout of the index (little endian, as Megatron-Core's ``IndexedDataset`` reads it): ``MMIDIDX\\0\\0``, version 1 (u64),
dtype code (u8), number of sequences (u64), length of the document index (u64), lengths (i32 each), byte offsets
(i64 each), document index (i64 each: first sequence of every document, and the end). A document is usually one
sequence; one without text has none, one made of several texts has several. Datasets are written and read without torch.
Lengths are streamed into the index as they come and everything else is derived from them at the end, in pieces, so
memory does not grow with the number of documents.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_open
from megatron_ipt.tokens.dataset.copying import append_range, write_all

MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<QBQQ")
HEADER_BYTES = len(MAGIC) + _HEADER.size
DTYPE_CODES: dict[int, type[Any]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16,
}  # fmt: skip
_CODE_OF = {np.dtype(dtype): code for code, dtype in DTYPE_CODES.items()}
_PIECE = 1 << 20
"""Entries of the index that are in memory at a time."""


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every id fits, else int32: Megatron's own rule (vocabularies below 65,500 ids)."""
    return np.dtype(np.uint16) if vocab_size < 65_500 else np.dtype(np.int32)


def dtype_for(wanted: str, vocab_size: int, name: str) -> np.dtype[Any]:
    """The data type called ``wanted``, or the smallest if that is ``auto``.

    Args:
        vocab_size: every id is less than it.
        name: name of the setting, for the error.

    Raises:
        InputError: the ids of the vocabulary do not fit.
    """
    if wanted == "auto":
        return smallest_dtype(vocab_size)
    dtype = np.dtype(wanted)
    limit = int(np.iinfo(dtype).max) + 1
    if vocab_size > limit:
        raise InputError(
            f"{name}: {wanted} holds ids below {limit:,}, the vocabulary has ids up to {vocab_size - 1:,}; use int32"
        )
    return dtype


def bin_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.idx")


class IndexedWriter:
    """Writes documents to ``prefix``; both files appear only when the ``with`` block succeeds, the index last."""

    def __init__(self, prefix: str | Path, dtype: npt.DTypeLike):
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        self.tokens = 0
        self.sequences = 0
        self.documents = 0
        self._stack = ExitStack()
        self._index: IO[bytes]
        self._tokens: int
        self._counts: IO[bytes] | None = None

    def __enter__(self) -> IndexedWriter:
        self._stack.__enter__()
        # Entered first, so that the index is renamed last: a reader never finds an index without its tokens.
        self._index = self._stack.enter_context(atomic_open(idx_path(self.prefix), "w+b", buffering=1 << 18))
        self._tokens = self._stack.enter_context(atomic_open(bin_path(self.prefix), buffering=0)).fileno()
        self._index.write(bytes(HEADER_BYTES))
        return self

    def add(
        self,
        tokens: npt.NDArray[Any],
        lengths: npt.NDArray[np.integer[Any]],
        counts: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Appends documents that are concatenated in ``tokens``.

        Args:
            tokens: ids, 1-d.
            lengths: number of tokens in each sequence.
            counts: number of sequences in each document; None if each has one.

        Raises:
            InputError: an id does not fit the data type of the dataset.
        """
        if int(lengths.sum()) != tokens.size:
            raise ValueError(f"lengths add up to {int(lengths.sum())} tokens, got {tokens.size}")
        if tokens.dtype != self.dtype and tokens.size:
            highest, limit = int(tokens.max()), np.iinfo(self.dtype).max
            if highest > limit:
                raise InputError(
                    f"{bin_path(self.prefix)}: id {highest} does not fit {self.dtype.name} (up to {limit}); use int32"
                )
        write_all(self._tokens, np.ascontiguousarray(tokens, dtype=self.dtype).data)
        self._add_lengths(lengths, counts)

    def add_copy(
        self,
        path: Path,
        start: int,
        lengths: npt.NDArray[np.integer[Any]],
        counts: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Appends documents whose tokens are in ``path`` from byte ``start``, in the data type of this dataset."""
        append_range(path, start, int(lengths.sum(dtype=np.int64)) * self.dtype.itemsize, self._tokens)
        self._add_lengths(lengths, counts)

    def _add_lengths(self, lengths: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]] | None) -> None:
        if counts is not None and (len(counts) != len(lengths) or (counts != 1).any()):
            if int(counts.sum()) != len(lengths):
                raise ValueError(f"counts add up to {int(counts.sum())} sequences, got {len(lengths)}")
            if self._counts is None:
                self._counts = self._stack.enter_context(tempfile.TemporaryFile(dir=self.prefix.parent))
                for size in _pieces(self.documents):
                    self._counts.write(np.ones(size, np.int32).data)
        if self._counts is not None:
            self._counts.write((np.ones(len(lengths), np.int32) if counts is None else counts.astype(np.int32)).data)
        self._index.write(np.ascontiguousarray(lengths, dtype=np.int32).data)
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.sequences += len(lengths)
        self.documents += len(lengths) if counts is None else len(counts)

    def __exit__(self, *exception: Any) -> None:
        try:
            if exception[0] is None:
                self._finish_index()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        self._stack.__exit__(*exception)

    def _finish_index(self) -> None:
        index = self._index
        offset = 0
        for lengths in _read_back(index, HEADER_BYTES, self.sequences):
            ends = np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
            index.write((offset + ends - lengths.astype(np.int64) * self.dtype.itemsize).data)
            offset += int(ends[-1])
        if self._counts is None:
            for start in range(0, self.documents + 1, _PIECE):
                index.write(np.arange(start, min(start + _PIECE, self.documents + 1), dtype=np.int64).data)
        else:
            index.write(np.zeros(1, np.int64).data)
            first = 0
            for counts in _read_back(self._counts, 0, self.documents):
                ends = first + np.cumsum(counts, dtype=np.int64)
                index.write(ends.data)
                first = int(ends[-1])
        index.seek(0)
        index.write(MAGIC + _HEADER.pack(_VERSION, _CODE_OF[self.dtype], self.sequences, self.documents + 1))


class IndexedReader:
    """Memory-mapped documents of ``prefix``.

    Attributes:
        dtype: type of the ids.
        sequence_lengths: number of tokens in each sequence, int32 [sequences].
        sequence_offsets: first byte of each sequence, int64 [sequences].
        document_index: first sequence of each document, and the end, int64 [documents + 1].
        total_tokens: number of tokens in all documents.

    Raises:
        InputError: files are missing, are not an indexed dataset, or do not match each other.
    """

    def __init__(self, prefix: str | Path):
        self.prefix = Path(prefix)
        path = idx_path(prefix)
        try:
            size = path.stat().st_size
            with open(path, "rb") as stream:
                header = stream.read(HEADER_BYTES)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        if len(header) < HEADER_BYTES or header[: len(MAGIC)] != MAGIC:
            raise InputError(f"{path}: not a Megatron index")
        version, code, sequences, documents = _HEADER.unpack_from(header, len(MAGIC))
        if version != _VERSION or code not in DTYPE_CODES:
            raise InputError(f"{path}: index version {version}, dtype code {code}; expected version 1")
        expected = HEADER_BYTES + 12 * sequences + 8 * documents
        if size != expected or not documents:
            raise InputError(f"{path}: {size} bytes, {expected} expected: truncated or damaged")
        self.dtype: np.dtype[Any] = np.dtype(DTYPE_CODES[code])
        content = np.memmap(path, np.uint8, "r")
        self.sequence_lengths = np.frombuffer(content, np.int32, sequences, HEADER_BYTES)
        self.sequence_offsets = np.frombuffer(content, np.int64, sequences, HEADER_BYTES + 4 * sequences)
        self.document_index = np.frombuffer(content, np.int64, documents, HEADER_BYTES + 12 * sequences)
        self._end = int(self.sequence_offsets[-1]) if sequences else 0
        self._end += int(self.sequence_lengths[-1]) * self.dtype.itemsize if sequences else 0
        self.total_tokens = self._end // self.dtype.itemsize
        found = bin_path(prefix).stat().st_size if bin_path(prefix).exists() else -1
        if found != self._end:
            raise InputError(f"{bin_path(prefix)}: {found} bytes, the index expects {self._end}")

    @cached_property
    def tokens(self) -> npt.NDArray[Any]:
        """All ids, 1-d."""
        return np.memmap(bin_path(self.prefix), self.dtype, "r") if self._end else np.zeros(0, self.dtype)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First token of each document, and the end, [documents + 1]."""
        ends = np.append(self.sequence_offsets, self._end) // self.dtype.itemsize
        return ends[self.document_index]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each document, [documents]."""
        if self.is_flat:
            return self.sequence_lengths
        return np.diff(self.offsets).astype(np.int32)

    @cached_property
    def is_flat(self) -> bool:
        """Whether every document is one sequence."""
        sequences = len(self.sequence_lengths)
        if len(self) != sequences:
            return False
        for start in range(0, sequences, _PIECE):
            end = min(start + _PIECE, sequences)
            if not np.array_equal(self.document_index[start:end], np.arange(start, end)):
                return False
        return True

    def counts(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Number of sequences in each of the documents ``start`` to ``end`` (exclusive)."""
        return np.diff(self.document_index[start : end + 1])

    def byte_offset(self, document: int) -> int:
        """First byte of ``document``, or of the end, in the .bin file."""
        sequence = int(self.document_index[document])
        return int(self.sequence_offsets[sequence]) if sequence < len(self.sequence_offsets) else self._end

    def __len__(self) -> int:
        return len(self.document_index) - 1

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """Ids of document ``index``, its sequences end to end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        size = self.dtype.itemsize
        return self.tokens[self.byte_offset(index) // size : self.byte_offset(index + 1) // size]


def _pieces(total: int) -> Iterator[int]:
    for start in range(0, total, _PIECE):
        yield min(_PIECE, total - start)


def _read_back(stream: IO[bytes], start: int, count: int) -> Iterator[npt.NDArray[np.int32]]:
    """int32 values that were written to ``stream``, in pieces, leaving its position at the end."""
    stream.flush()
    for size in _pieces(count):
        yield np.frombuffer(os.pread(stream.fileno(), 4 * size, start), np.int32)
        start += 4 * size
