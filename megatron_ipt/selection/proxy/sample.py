"""What a proxy run works on: documents drawn from the corpus, and target texts that must occur nowhere else.

A document is drawn by a hash of its id, so the draw does not depend on shards or order. While the corpus is read for
that, every document, held-out ones included, is compared with the target texts: scores for texts that a target repeats
would favour learning by heart, and a target that is held out elsewhere would spoil that evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.reading import open_rejects, read_documents
from megatron_ipt.errors import InputError
from megatron_ipt.parallel import map_shards
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import unit_interval
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.selection.rows import CorpusShard, documents_of, hash_of, is_row, shards_of, training_ids

_LISTED = 5
"""Shared texts that an error names."""


@dataclass
class Scan:
    """What one shard holds.

    Attributes:
        documents: number of training documents.
        draws: the lowest draws among them, in falling priority.
        rows: their places among the lines of the shard.
        shared: documents that are target texts, in words.
    """

    documents: int = 0
    draws: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    shared: list[str] = field(default_factory=list)


def target_texts(config: ProxyConfig, rejects: Path) -> list[Document]:
    """The target texts; what cannot be used goes to ``rejects``.

    Raises:
        InputError: there are none, a file cannot be read, or one of them is a text that models are evaluated on.
    """
    options = config.read.options("proxy.read")
    with open_rejects(rejects, options) as rejected:
        found = list(read_documents(config.target, options, rejected, "proxy.target"))
        if not found:
            raise InputError(f"proxy.target: no text in {', '.join(config.target)}; there is nothing to become good at")
        if config.evaluated_on:
            names = names_by_digest(found)
            shared = [
                f"{names[digest]} is {document.id}"
                for document in read_documents(config.evaluated_on, options, rejected, "proxy.evaluated_on")
                if (digest := digest_of(document.text)) in names
            ]
            _refuse(shared, "texts of proxy.evaluated_on", "evaluation would no longer be independent of the selection")
    return found


def draw(config: ProxyConfig, corpus: Path, target: Sequence[Document], seed: int) -> tuple[list[Document], int]:
    """(documents of the draw, in the order of the corpus; number of all training documents).

    Raises:
        InputError: the corpus has fewer training documents than are to be drawn, it holds a target text, or the
            starting points were trained on a document of the draw.
    """
    shards = shards_of(corpus)
    names = names_by_digest(target)
    scans: dict[str, Scan] = {}
    with Progress("proxy: corpus", len(shards), "shards") as bar:
        for shard, found in map_shards(scan, shards, (seed, config.documents, names), config.workers):
            scans[shard.name] = found
            bar.advance()
    in_order = [scans[shard.name] for shard in shards]
    shared = [name for found in in_order for name in found.shared]
    _refuse(shared, "documents of the corpus", "scores would favour learning them by heart")
    documents = sum(found.documents for found in in_order)
    if documents < config.documents:
        raise InputError(
            f"proxy.documents: {config.documents:,} are to be drawn, and {corpus} has {documents:,} training documents"
        )
    draws = np.concatenate([found.draws for found in in_order])
    of_shard = np.concatenate([np.full(len(found.rows), place) for place, found in enumerate(in_order)])
    rows = np.concatenate([found.rows for found in in_order])
    chosen = np.argsort(draws, kind="stable")[: config.documents]
    tasks = [
        (shard, frozenset(rows[chosen[of_shard[chosen] == place]].tolist()))
        for place, shard in enumerate(shards)
        if (of_shard[chosen] == place).any()
    ]
    made: dict[str, list[Document]] = {}
    for (shard, _), documents_found in map_shards(_read, tasks, (), config.workers):
        made[shard.name] = documents_found
    chosen_documents = [document for shard, _ in tasks for document in made[shard.name]]
    _refuse_known(config, chosen_documents)
    return chosen_documents, documents


def scan(shard: CorpusShard, seed: int, most: int, target: dict[bytes, str]) -> Scan:
    """Draws from one shard, at most ``most``, and compares its documents with the texts of ``target`` by digest."""
    found = Scan()
    draws, rows = [], []
    for row, (_, document) in enumerate(documents_of(shard.path)):
        if (digest := digest_of(document.text)) in target:
            found.shared.append(f"{target[digest]} is {document.id} (split {document.split}) in {shard.path}")
        if is_row(document):
            draws.append(unit_interval(seed, "proxy", "draw", document.id))
            rows.append(row)
    found.documents = len(draws)
    lowest = np.argsort(np.array(draws), kind="stable")[:most]
    found.draws, found.rows = np.array(draws)[lowest], np.array(rows, np.int64)[lowest]
    return found


def _read(task: tuple[CorpusShard, frozenset[int]]) -> list[Document]:
    shard, rows = task
    return [document for row, (_, document) in enumerate(documents_of(shard.path)) if row in rows]


def _refuse_known(config: ProxyConfig, documents: Sequence[Document]) -> None:
    if not config.trained_on:
        return
    ids = np.array([hash_of(document.id) for document in documents], np.uint64)
    known = np.flatnonzero(np.isin(ids, training_ids(Path(config.trained_on), "proxy.trained_on")))
    if len(known):
        raise InputError(
            f"proxy.trained_on: {len(known):,} documents of the draw, such as {documents[known[0]].id}, were in the "
            f"training data of the starting points ({config.trained_on}), which have learned what these hold. Reserve "
            "a slice of the corpus for that training, and score the rest: corpus.slice."
        )


def names_by_digest(documents: Iterable[Document]) -> dict[bytes, str]:
    """Ids of texts by their digest."""
    return {digest_of(document.text): document.id for document in documents}


def digest_of(text: str) -> bytes:
    """What a text is recognised by, whatever its white space and capitals."""
    return hashlib.blake2b(" ".join(text.split()).casefold().encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _refuse(shared: Sequence[str], where: str, why: str) -> None:
    if shared:
        listed = "; ".join(shared[:_LISTED]) + ("; ..." if len(shared) > _LISTED else "")
        raise InputError(
            f"proxy.target: {len(shared)} target texts are also {where} ({listed}): {why}. Leave them out of one of "
            "the two"
        )
