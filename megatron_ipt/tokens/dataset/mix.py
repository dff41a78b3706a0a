"""From encoded parts to the datasets of a split: interleaved, or one after the other.

Parts that stay in one piece are copied by the kernel. Interleaved documents are gathered in blocks of a few million
tokens, read from each source at once. Memory holds one block, whatever the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.files import atomic_open
from megatron_ipt.tokens.dataset.indexed import IndexedReader, IndexedWriter, bin_path
from megatron_ipt.tokens.dataset.interleave import Block, Stretch, interleave

_STRETCH_TOKENS = 1 << 21
_STRETCH_DOCUMENTS = 1 << 18


class TokenizedSource:
    """The encoded parts of one source and split as one sequence of documents.

    Args:
        prefixes: path prefixes of the parts, in order.
        repeat: how often every document occurs.

    Attributes:
        documents, tokens: how many there are, counting every repetition.
    """

    def __init__(self, name: str, prefixes: list[Path], repeat: int = 1):
        self.name = name
        self.prefixes = prefixes
        self.repeat = repeat
        self.documents = self.tokens = 0
        for prefix in prefixes:
            reader = IndexedReader(prefix)
            self.documents += len(reader) * repeat
            self.tokens += reader.total_tokens * repeat

    def readers(self) -> Iterator[IndexedReader]:
        for _ in range(self.repeat):
            yield from map(IndexedReader, self.prefixes)

    def stretches(self) -> Iterator[Stretch]:
        """All documents; ``place`` is (reader, first document)."""
        for reader in self.readers():
            start = 0
            while start < len(reader):
                limit = reader.byte_offset(start) + _STRETCH_TOKENS * reader.dtype.itemsize
                most = min(start + _STRETCH_DOCUMENTS, len(reader))
                end = start + 1
                if reader.byte_offset(most) <= limit:
                    end = most
                else:
                    offsets = reader.sequence_offsets
                    end = int(np.searchsorted(reader.document_index, np.searchsorted(offsets, limit, "right"))) - 1
                    end = min(max(end, start + 1), most)
                yield Stretch(reader.lengths[start:end], (reader, start))
                start = end


def write_interleaved(
    prefix: Path, sources: list[TokenizedSource], dtype: npt.DTypeLike, shares: list[float] | None
) -> dict[str, Any]:
    """Writes all ``sources`` interleaved to ``prefix``, with ``PREFIX.sources.npy`` naming each document's source.

    Returns:
        ``{documents, tokens, by_source: {name: {documents, tokens, left_out_documents}}}``
    """
    documents, tokens = np.zeros(len(sources), np.int64), np.zeros(len(sources), np.int64)
    blocks = interleave([source.stretches() for source in sources], [source.tokens for source in sources], shares)
    with IndexedWriter(prefix, dtype) as writer, atomic_open(f"{prefix}.sources.npy") as stream:
        _write_npy_header(stream, 0)
        for block in blocks:
            writer.add(*_gather(block, writer.dtype))
            stream.write(block.order.data)
            for number, taken in enumerate(block.taken):
                if taken is not None:
                    stretch, start, end = taken
                    documents[number] += end - start
                    tokens[number] += int(stretch.lengths[start:end].sum(dtype=np.int64))
        stream.seek(0)
        _write_npy_header(stream, writer.documents)
    return {
        "documents": writer.documents,
        "tokens": writer.tokens,
        "by_source": {
            source.name: {
                "documents": int(documents[number]),
                "tokens": int(tokens[number]),
                "left_out_documents": source.documents - int(documents[number]),
            }
            for number, source in enumerate(sources)
        },
    }


def write_single(prefix: Path, source: TokenizedSource, dtype: npt.DTypeLike) -> dict[str, Any]:
    """Writes one source to ``prefix``, its parts concatenated; returns ``{documents, tokens}``."""
    with IndexedWriter(prefix, dtype) as writer:
        for reader in source.readers():
            append(writer, reader)
    return {"documents": writer.documents, "tokens": writer.tokens}


def append(writer: IndexedWriter, reader: IndexedReader, start: int = 0, end: int | None = None) -> None:
    """Appends documents ``start`` to ``end`` (exclusive) of ``reader``, copied by the kernel."""
    end = len(reader) if end is None else end
    first, last = int(reader.document_index[start]), int(reader.document_index[end])
    counts = None if reader.is_flat else reader.counts(start, end)
    path = bin_path(reader.prefix)
    writer.add_copy(path, reader.byte_offset(start), reader.sequence_lengths[first:last], counts)


def _gather(
    block: Block, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """(tokens, lengths, counts) of a block, as :meth:`IndexedWriter.add` takes them."""
    slabs = [None if taken is None else _Slab(*taken) for taken in block.taken]
    changes = np.flatnonzero(np.diff(block.order)) + 1
    boundaries = [0, *changes.tolist(), len(block.order)]
    of_source = block.order[boundaries[:-1]].tolist()
    pieces: list[memoryview] = []
    runs: list[tuple[_Slab, int, int]] = []
    for number, (start, end) in zip(of_source, pairwise(boundaries)):
        slab = slabs[number]
        assert slab is not None
        first, slab.done = slab.done, slab.done + end - start
        pieces.append(slab.content[slab.bytes[first] : slab.bytes[slab.done]])
        runs.append((slab, first, slab.done))
    tokens = np.frombuffer(b"".join(pieces), dtype)
    if all(slab is None or slab.counts is None for slab in slabs):
        lengths = np.empty(len(block.order), np.int32)
        for number, slab in enumerate(slabs):
            if slab is not None:
                lengths[block.order == number] = slab.lengths
        return tokens, lengths, None
    return (
        tokens,
        np.concatenate([slab.sequence_lengths(first, last) for slab, first, last in runs]),
        np.concatenate([slab.sequence_counts(first, last) for slab, first, last in runs]),
    )


class _Slab:
    """A range of a stretch with its tokens in memory."""

    def __init__(self, stretch: Stretch, start: int, end: int):
        reader, first = stretch.place
        self._reader: IndexedReader = reader
        self._first = first + start
        self.done = 0
        self.lengths = stretch.lengths[start:end]
        low, high = reader.byte_offset(self._first), reader.byte_offset(first + end)
        with open(bin_path(reader.prefix), "rb", buffering=0) as stream:
            stream.seek(low)
            content = bytearray(high - low)
            stream.readinto(content)
        self.content = memoryview(content)
        ends = np.cumsum(self.lengths, dtype=np.int64) * reader.dtype.itemsize
        self.bytes: list[int] = [0, *ends.tolist()]
        self.counts = None if reader.is_flat else reader.counts(self._first, first + end)

    def sequence_lengths(self, start: int, end: int) -> npt.NDArray[np.int32]:
        index = self._reader.document_index
        return self._reader.sequence_lengths[index[self._first + start] : index[self._first + end]]

    def sequence_counts(self, start: int, end: int) -> npt.NDArray[np.int64]:
        return self._reader.counts(self._first + start, self._first + end)


def _write_npy_header(stream: IO[bytes], documents: int) -> None:
    """The header of a uint8 array; it has the same size for every length, so it can be overwritten."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (documents,)}
    np.lib.format.write_array_header_1_0(stream, header)
