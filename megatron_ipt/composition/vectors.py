"""Step ``vectors``: the paragraphs of each shard of the corpus, and a vector for each.

Training documents only. Paragraphs are measured with the tokenizer of the token data, whose ids are kept: they are what
rows are made of. A shard is finished when its vectors are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.encoder.model import SentenceEncoder
from megatron_ipt.composition.paragraphs import paragraphs_of
from megatron_ipt.composition.store import (
    PARAGRAPH,
    PARAGRAPHS,
    VECTORS,
    array_path,
    digest,
    save_array,
    unit,
)
from megatron_ipt.corpus.documents import Document
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import write_json
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.progress import Progress
from megatron_ipt.selection.rows import CorpusShard, documents_of, is_row
from megatron_ipt.tokens.dataset.indexed import IndexedWriter

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 512
_TEXTS_AT_ONCE = 4096
"""Given to the encoder together, sorted by length among each other."""


@dataclass
class Cut:
    """Paragraphs of the training documents of one shard.

    Attributes:
        documents: their ids.
        rows: (document, text, tokens) of each paragraph, as :data:`.store.PARAGRAPH`.
        texts, ids: of each paragraph.
        too_short, too_long: paragraphs that were left out.
    """

    documents: list[str] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    too_short: int = 0
    too_long: int = 0


def cut_up(documents: Iterator[Document], config: CompositionConfig, tokenizer: PromptTokenizer) -> Cut:
    """Paragraphs of documents, each document's in order."""
    cut = Cut()
    maximum = config.paragraph.maximum_tokens
    while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        made = paragraphs_of([document.text for document in batch], tokenizer.encode, config.paragraph.tokens)
        flat = [text for texts in made for text in texts]
        ids = iter(tokenizer.encode(flat) if flat else [])
        for document, texts in zip(batch, made):
            for text, own in zip(texts, ids):
                if len(own) < config.paragraph.minimum_tokens:
                    cut.too_short += 1
                    continue
                if maximum is not None and len(own) > maximum:
                    cut.too_long += 1
                    continue
                hashed = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
                cut.rows.append((len(cut.documents), hashed, len(own)))
                cut.texts.append(text)
                cut.ids.append(own)
            cut.documents.append(document.id)
    return cut


@dataclass
class VectorStep:
    """The shards of one process.

    Args:
        config: section ``composition``.
        directory: of the stage.
        tokenizer: of the token data.
        dtype: of its ids on disk.
        fingerprint: of the encoder and how it is used.
    """

    config: CompositionConfig
    directory: Path
    tokenizer: PromptTokenizer
    dtype: str
    fingerprint: str
    _encoder: SentenceEncoder | None = None

    def work(self, shards: list[CorpusShard]) -> None:
        """Makes what is missing.

        Raises:
            InputError: the encoder or a document cannot be used.
            StageError: a vector is not finite, or another process works on a shard.
        """
        markers = ShardMarkers(self.directory)
        with Progress("vectors", len(shards), "shards") as bar:
            for shard in shards:
                lock = self.directory / VECTORS / f".{shard.name}.lock"
                path = array_path(self.directory, VECTORS, shard.name)
                with locked(lock, path, remove=True, advice="Finished shards are kept."):
                    if markers.counts(unit(VECTORS, shard)) is None:
                        markers.finish(unit(VECTORS, shard), self._shard(shard))
                bar.advance(1)

    def _shard(self, shard: CorpusShard) -> dict[str, Any]:
        start = time.monotonic()
        training = (document for _, document in documents_of(shard.path) if is_row(document))
        cut = cut_up(training, self.config, self.tokenizer)
        rows = np.array(cut.rows, PARAGRAPH)
        folder = self.directory / PARAGRAPHS
        write_json(folder / f"{shard.name}.documents.json", cut.documents)
        texts = [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in cut.texts]
        write_each(folder / f"{shard.name}-text", texts, np.uint8)
        write_each(folder / f"{shard.name}-tokens", [np.array(ids, np.int64) for ids in cut.ids], self.dtype)
        save_array(array_path(self.directory, PARAGRAPHS, shard.name), rows)
        if self._encoder is None:
            self._encoder = SentenceEncoder(self.config.encoder)
        vectors = np.zeros((len(cut.texts), self._encoder.dimension), np.float32)
        for first in range(0, len(cut.texts), _TEXTS_AT_ONCE):
            vectors[first : first + _TEXTS_AT_ONCE] = self._encoder.encode(cut.texts[first : first + _TEXTS_AT_ONCE])
        wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(wrong):
            row = cut.rows[wrong[0]]
            raise StageError(
                f"{shard.path}: a paragraph of document {cut.documents[row[0]]} got a vector that is not finite from "
                f"{self.config.encoder.model}. Its weights may be damaged; if they are not, set "
                "composition.encoder.dtype=float32"
            )
        save_array(array_path(self.directory, VECTORS, shard.name), vectors)
        return {
            "documents": len(cut.documents),
            "paragraphs": len(rows),
            "too_short": cut.too_short,
            "too_long": cut.too_long,
            "tokens": int(rows["tokens"].sum()) if len(rows) else 0,
            "texts": digest(rows["text"]),
            "vectors": digest(vectors),
            "encoder": self.fingerprint,
            "dimension": vectors.shape[1],
            "seconds": time.monotonic() - start,
        }


def write_each(prefix: Path, documents: list[Any], dtype: Any) -> None:
    """An indexed dataset with one document for each array."""
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(document, np.array([len(document)], np.int32))


def line_break(tokenizer: PromptTokenizer) -> list[int]:
    """Ids of the line break after a paragraph.

    Raises:
        InputError: the tokenizer has none.
    """
    before, after = tokenizer.encode(["a", "a\n"])
    ids = after[len(before) :] if after[: len(before)] == before else []
    if not ids:
        raise InputError(
            f"{tokenizer.path}: the tokenizer drops line breaks, which separate the paragraphs of a context; use one "
            "that keeps them"
        )
    return ids
