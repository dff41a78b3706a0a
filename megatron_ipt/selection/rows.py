"""Rows: the training documents of a corpus in the order in which its shards hold them, lane by lane.

Scores are kept by row, in one array per shard: a document is found by its place, never by order of arrival. Each row
also carries a hash of the id, by which scores are matched with documents again, and what the report counts by, so
that selection decides without reading a text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.stage import LANES
from megatron_ipt.errors import InputError
from megatron_ipt.files import iter_lines, list_shards
from megatron_ipt.manifest import fingerprint_stage

ROW = np.dtype(
    [("id", "<u8"), ("nll", "<f8"), ("tokens", "<i4"), ("bytes", "<i4"), ("domain", "<i4"), ("source", "<i4")]
)
"""``nll`` is the summed negative log-likelihood of ``tokens`` predicted tokens, in nats, NaN without any; ``domain``
and ``source`` are places in the lists of names beside the array."""
REFUSED = -1
"""``tokens`` of a document that the engine refused to score."""
OWN_ID = "(ids of their own)"
"""Source of documents whose id does not name their file."""
_PLACE_IN_FILE = re.compile(r"(.+):\d+(?:[:#-].*)?")
Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class CorpusShard:
    """One shard of a corpus; ``name`` is unique over its lanes."""

    lane: str
    path: Path

    @property
    def name(self) -> str:
        """``synthesis-00003``."""
        return f"{self.lane}-{self.path.name.split('.', 1)[0].removeprefix('shard-')}"


def shards_of(corpus: Path) -> list[CorpusShard]:
    """Every shard of a corpus, in the order of rows."""
    return [CorpusShard(lane, path) for lane in LANES for path in list_shards(corpus / lane)]


def identity_of_corpus(corpus: Path) -> str:
    """Hash of what a finished corpus is made of, without the seed, so that runs of other seeds can use its scores;
    which documents a shard has is checked shard by shard.

    Raises:
        StageError: the corpus is not complete.
    """
    return str(fingerprint_stage(corpus, ignore=("seed",))["identity"])


def hash_of(document_id: str) -> int:
    """64 bits of an id."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def ids_digest(ids: npt.NDArray[np.uint64]) -> str:
    """What the ids of a shard are recognised by, in order."""
    return xxhash.xxh3_128(ids.tobytes()).hexdigest()


def source_of(document_id: str) -> str:
    """The file in an id that names a place in one, else :data:`OWN_ID`."""
    match = _PLACE_IN_FILE.fullmatch(document_id)
    return match[1] if match else OWN_ID


def documents_of(shard: Path) -> Iterator[tuple[bytes, Document]]:
    """(line, document) of a shard, held-out ones included.

    Raises:
        InputError: a line is damaged.
    """
    for number, line in enumerate(iter_lines(shard), 1):
        try:
            yield line, Document.from_json(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{shard}:{number}: not a document of the stage corpus: {error}") from error


def is_row(document: Document) -> bool:
    """Whether a document is scored and may be left out; those that are held out are neither."""
    return document.split == "train"


@dataclass
class Names:
    """Names in order of their first occurrence, and their places."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> int:
        return self.places.setdefault(name, len(self.places))

    def to_json(self) -> list[str]:
        return list(self.places)


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard, as :data:`ROW`, and the names that their columns refer to."""

    rows: Rows
    domains: list[str]
    sources: list[str]


def rows_of(documents: Iterable[Document]) -> ShardRows:
    """Rows of training documents, without scores."""
    domains, sources = Names(), Names()
    records = [
        (
            hash_of(document.id),
            np.nan,
            0,
            len(document.text.encode("utf-8", "surrogatepass")),
            domains.place(document.domain),
            sources.place(source_of(document.id)),
        )
        for document in documents
    ]
    return ShardRows(np.array(records, ROW), domains.to_json(), sources.to_json())


def unscored(shard: CorpusShard) -> ShardRows:
    """Rows of the training documents of a shard, without scores."""
    return rows_of(document for _, document in documents_of(shard.path) if is_row(document))


def save_rows(rows: Rows, stream: Any) -> None:
    """Writes rows as ``.npy``."""
    np.lib.format.write_array(stream, rows, allow_pickle=False)


def training_ids(folder: Path, key: str) -> npt.NDArray[np.uint64]:
    """Hashes of the ids of the training documents in a folder of the stage corpus, sorted.

    Raises:
        InputError: there is none.
    """
    ids = [
        hash_of(document.id)
        for shard in shards_of(folder)
        for _, document in documents_of(shard.path)
        if is_row(document)
    ]
    if not ids:
        raise InputError(f"{key}: {folder}: no training documents; name the folder of the stage corpus of a run")
    return np.sort(np.array(ids, np.uint64))
