"""Texts to indexed datasets: the parallel part of tokenization, one small dataset per part and output.

A part is what one process encodes at a time: a shard of documents, or a piece of a user's file. It leaves a marker with
its counts, so that a rerun after an interruption repeats one part. Ids stay arrays throughout; a Python list of them
would cost more than computing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document, DomainCounts
from megatron_ipt.files import read_jsonl
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.tokens.dataset.indexed import IndexedWriter
from megatron_ipt.tokens.tokenizer.loading import encoder_for
from megatron_ipt.tokens.tokenizer.long_texts import Ids

BATCH_CHARACTERS = 1 << 22


class Item(NamedTuple):
    """A document and the output it goes to: its texts become its sequences."""

    output: str
    texts: list[str]


@dataclass(frozen=True)
class Frame:
    """Ids put around texts. A document whose texts have no ids gets none and stays without sequences.

    Attributes:
        text_head, text_tail: around every text.
        document_head, document_tail: before the first and after the last sequence of a document.
    """

    text_head: tuple[int, ...] = ()
    text_tail: tuple[int, ...] = ()
    document_head: tuple[int, ...] = ()
    document_tail: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """How to encode, the same for all parts of a run.

    Attributes:
        tokenizer: folder in which the tokenizer was saved.
        engine: name of the encoder that was chosen for it, never ``auto``.
        frame: ids around the texts.
        dtype: name of the data type of the datasets.
        keep_empty: whether a document without ids is written, with no sequences, or only counted.
    """

    tokenizer: Path
    engine: str
    frame: Frame
    dtype: str
    keep_empty: bool = True


@dataclass(frozen=True)
class Part:
    """One shard to encode: documents of ``source`` in ``path``, to ``directory/name-SPLIT.bin`` and ``.idx``."""

    source: str
    index: int
    path: Path
    directory: Path

    @property
    def name(self) -> str:
        return f"{self.source}-{self.index:05d}"

    def prefix(self, split: str) -> Path:
        return self.directory / f"{self.name}-{split}"


def encode_part(part: Part, encoding: Encoding) -> dict[str, Any]:
    """Encodes a part unless its marker says it is done.

    Returns:
        ``{split: {documents, tokens, empty, domains: {domain: {documents, characters}}}}``.
    """
    markers = ShardMarkers(part.directory)
    done = markers.counts(part.name)
    if done is not None:
        return done
    domains: dict[str, DomainCounts] = {}

    def items() -> Iterator[Item]:
        for record in read_jsonl(part.path):
            document = Document.from_json(record)
            domains.setdefault(document.split, DomainCounts()).add(document.domain, 1, len(document.text))
            yield Item(document.split, [document.text])

    counts: dict[str, Any] = encode_items(items(), part.prefix, encoding)
    for split, by_domain in domains.items():
        counts[split]["domains"] = by_domain.to_json()
    markers.finish(part.name, counts)
    return counts


def encode_items(
    items: Iterable[Item], prefix_of: Callable[[str], Path], encoding: Encoding
) -> dict[str, dict[str, int]]:
    """Writes every item to the dataset of its output; all appear together when the last item is written.

    Args:
        prefix_of: path prefix of the dataset of an output. An output without items gets no dataset.

    Returns:
        ``{output: {documents, tokens, empty}}``: documents written, their tokens, and those without any.
    """
    encoder = encoder_for(encoding.tokenizer, encoding.engine)
    dtype = np.dtype(encoding.dtype)
    empty: dict[str, int] = {}
    with ExitStack() as stack:
        writers: dict[str, IndexedWriter] = {}
        for batch in batches(items):
            encoded = encoder.encode([text for item in batch for text in item.texts])
            for output, counts, ids in _by_output(batch, encoded):
                tokens, lengths, sequences = frame_documents(ids, counts, encoding.frame, dtype)
                empty[output] = empty.get(output, 0) + int((sequences == 0).sum())
                if not encoding.keep_empty:
                    sequences = sequences[sequences > 0]
                if output not in writers:
                    writers[output] = stack.enter_context(IndexedWriter(prefix_of(output), dtype))
                writers[output].add(tokens, lengths, sequences)
    return {
        output: {"documents": writer.documents, "tokens": writer.tokens, "empty": empty[output]}
        for output, writer in writers.items()
    }


def frame_documents(
    encoded: Iterable[Ids], counts: Iterable[int], frame: Frame, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Concatenates documents, with the ids of ``frame`` around them.

    Args:
        encoded: ids of every text, in order.
        counts: number of texts in each document.

    Returns:
        The ids (1-d, ``dtype``), the number of tokens in each sequence, and of sequences in each document.
    """
    text_head, text_tail, document_head, document_tail = (
        np.array(ids, np.uint32) if ids else None
        for ids in (frame.text_head, frame.text_tail, frame.document_head, frame.document_tail)
    )
    around_text = len(frame.text_head) + len(frame.text_tail)
    pieces: list[Ids] = []
    lengths: list[int] = []
    sequences: list[int] = []
    texts = iter(encoded)
    for count in counts:
        begun = len(lengths)
        for ids in islice(texts, count):
            size = len(ids) + around_text
            if not size:
                continue
            if document_head is not None and len(lengths) == begun:
                pieces.append(document_head)
                size += len(document_head)
            if text_head is not None:
                pieces.append(text_head)
            pieces.append(ids)
            if text_tail is not None:
                pieces.append(text_tail)
            lengths.append(size)
        if document_tail is not None and len(lengths) > begun:
            pieces.append(document_tail)
            lengths[-1] += len(document_tail)
        sequences.append(len(lengths) - begun)
    tokens = np.concatenate(pieces, dtype=dtype, casting="unsafe") if pieces else np.zeros(0, dtype)
    return tokens, np.array(lengths, np.int32), np.array(sequences, np.int32)


def batches(items: Iterable[Item], characters: int = BATCH_CHARACTERS) -> Iterator[list[Item]]:
    """Consecutive items, together at most ``characters`` long; a longer one is a batch by itself."""
    batch: list[Item] = []
    size = 0
    for item in items:
        length = sum(map(len, item.texts))
        if batch and (size + length > characters or len(batch) >= characters >> 4):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def _by_output(batch: list[Item], encoded: list[Ids]) -> Iterator[tuple[str, list[int], list[Ids]]]:
    """(output, number of texts in each document, ids of the texts) for every output in ``batch``."""
    outputs = {item.output for item in batch}
    if len(outputs) == 1:
        yield batch[0].output, [len(item.texts) for item in batch], encoded
        return
    counts: dict[str, list[int]] = {}
    ids: dict[str, list[Ids]] = {}
    texts = iter(encoded)
    for item in batch:
        counts.setdefault(item.output, []).append(len(item.texts))
        ids.setdefault(item.output, []).extend(islice(texts, len(item.texts)))
    for output in counts:
        yield output, counts[output], ids[output]
