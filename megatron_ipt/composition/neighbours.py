"""Step ``neighbours``, and the contexts that follow from it once all shards have theirs.

Each shard asks for the neighbours of its own paragraphs among those of all shards. Which paragraphs stand in which
context is decided once, for all, because a paragraph may occur only so often: numbers only, seconds for a million.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.contexts import COPIES, KINDS, RANDOM, REAL, assemble, fitting, random_neighbours
from megatron_ipt.composition.search import NONE, RANKS, Index
from megatron_ipt.composition.store import (
    CONTEXTS,
    NEIGHBOURS,
    Numbers,
    Paragraphs,
    array_path,
    load_array,
    save_array,
    unit,
)
from megatron_ipt.errors import StageError
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import derive, unit_interval
from megatron_ipt.selection.rows import CorpusShard

INDEX = "index.faiss"
"""In the folder of neighbours: the cells of an approximate index."""


def queries_of(config: CompositionConfig, paragraphs: Paragraphs, seed: int) -> Numbers:
    """Numbers of the paragraphs that get a context, ascending."""
    unique = paragraphs.unique
    if config.queries is None or config.queries >= len(unique):
        return unique
    chance = [derive(seed, "query", paragraphs.name(number)) for number in unique.tolist()]
    order = sorted(range(len(unique)), key=lambda place: (chance[place], place))
    return np.sort(unique[order[: config.queries]])


def neighbour_dtype(k: int) -> np.dtype[Any]:
    """Of a query with its ``k`` neighbours."""
    return np.dtype([("query", "<i8"), ("neighbours", "<i8", (k,)), ("nearness", "<f8", (k,))])


def context_dtype(most: int) -> np.dtype[Any]:
    """Of a context: its kind as a place in :data:`.contexts.KINDS`, the query and the neighbours, nearest first."""
    return np.dtype([("kind", "<i4"), ("query", "<i8"), ("neighbours", "<i8", (most,))])


def search_shards(
    config: CompositionConfig,
    directory: Path,
    paragraphs: Paragraphs,
    encoder: str,
    seed: int,
    shards: list[CorpusShard],
) -> None:
    """Writes the neighbours of the queries of ``shards``.

    Raises:
        InputError: the corpus has too few paragraphs.
        StageError: vectors do not fit, or another process works on a shard.
    """
    paragraphs.check()
    markers = ShardMarkers(directory)
    left = [shard for shard in shards if markers.counts(unit(NEIGHBOURS, shard)) is None]
    if not left:
        return
    unique = paragraphs.unique
    vectors = paragraphs.vectors(encoder)
    (directory / NEIGHBOURS).mkdir(parents=True, exist_ok=True)
    with locked(directory / NEIGHBOURS / ".index.lock", directory / NEIGHBOURS, wait=True):
        index = Index(vectors, paragraphs.documents[unique], config.search, directory / NEIGHBOURS / INDEX)
    queries = queries_of(config, paragraphs, seed)
    whole = {"paragraphs": paragraphs.identity}
    with Progress("neighbours", len(left), "shards") as bar:
        for shard in left:
            lock = directory / NEIGHBOURS / f".{shard.name}.lock"
            path = array_path(directory, NEIGHBOURS, shard.name)
            with locked(lock, path, remove=True, advice="Finished shards are kept."):
                if markers.counts(unit(NEIGHBOURS, shard)) is None:
                    numbers = next(each for each in paragraphs.shards if each.name == shard.name).numbers
                    own = queries[(queries >= numbers.start) & (queries < numbers.stop)]
                    counts = _search(config, index, unique, own, path)
                    markers.finish(unit(NEIGHBOURS, shard), counts | whole)
            bar.advance(1)


def _search(config: CompositionConfig, index: Index, unique: Numbers, queries: Numbers, path: Path) -> dict[str, Any]:
    start = time.monotonic()
    k = config.search.candidates
    found = index.search(np.searchsorted(unique, queries), k)
    rows = np.zeros(len(queries), neighbour_dtype(k))
    rows["query"] = queries
    rows["neighbours"] = np.where(found.numbers == NONE, NONE, unique[found.numbers])
    rows["nearness"] = found.nearness
    save_array(path, rows)
    return {
        "queries": len(queries),
        "found": int((found.numbers != NONE).sum()),
        "same_document": found.same_document.tolist(),
        "near_duplicates": found.near_duplicates.tolist(),
        "ranks": min(RANKS, len(unique) - 1),
        "seconds": time.monotonic() - start,
    }


def read_neighbours(directory: Path, paragraphs: Paragraphs, names: list[str]) -> npt.NDArray[np.void]:
    """Neighbours of all queries, ascending by query.

    Raises:
        StageError: those of a shard are missing, damaged, or of other paragraphs.
    """
    markers = ShardMarkers(directory)
    parts = []
    missing = [name for name in names if markers.counts(f"{NEIGHBOURS}/{name}") is None]
    if missing:
        raise StageError(
            f"{directory}: {len(missing)} of {len(names)} shards have no neighbours yet ({missing[0]}); run "
            "`megatron-ipt compose` with --until neighbours first"
        )
    for name in names:
        path = array_path(directory, NEIGHBOURS, name)
        again = f"Remove {directory / NEIGHBOURS} and run `megatron-ipt compose` again."
        marker = paragraphs.marker(NEIGHBOURS, name)
        rows = load_array(path, again)
        if marker["paragraphs"] != paragraphs.identity or len(rows) != marker["queries"]:
            raise StageError(f"{path}: neighbours among other paragraphs than those of this corpus. {again}")
        parts.append(np.asarray(rows))
    return np.concatenate(parts)


def make_contexts(
    config: CompositionConfig, directory: Path, paragraphs: Paragraphs, lengths: Numbers, seed: int, names: list[str]
) -> None:
    """Writes the contexts of all shards, unless they are there.

    Args:
        lengths: tokens of every paragraph as it stands in a context, line break included.
    """
    markers = ShardMarkers(directory)
    folder = directory / CONTEXTS
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".contexts.lock", folder, wait=True):
        if markers.counts(f"{CONTEXTS}/all") is not None:
            return
        found = read_neighbours(directory, paragraphs, names)
        queries = found["query"].astype(np.int64)
        taken = assemble(
            queries, found["neighbours"], found["nearness"], lengths, config.seq_length, config.neighbours,
            config.search.most_uses,
        )  # fmt: skip
        there = (taken != NONE).any(1)
        rows = np.zeros(int(there.sum()), context_dtype(config.neighbours))
        rows["query"], rows["neighbours"] = queries[there], taken[there]
        for shard in paragraphs.shards:
            inside = (rows["query"] >= shard.numbers.start) & (rows["query"] < shard.numbers.stop)
            own = rows[inside]
            controls = _controls(config, paragraphs, own, lengths, seed, len(rows))
            save_array(array_path(directory, CONTEXTS, shard.name), np.concatenate([own, controls]))
        markers.finish(
            f"{CONTEXTS}/all",
            {"queries": len(queries), "contexts": len(rows), "without_neighbours": int((~there).sum())},
        )


def _controls(
    config: CompositionConfig,
    paragraphs: Paragraphs,
    own: npt.NDArray[np.void],
    lengths: Numbers,
    seed: int,
    everything: int,
) -> npt.NDArray[np.void]:
    """Contexts of random paragraphs and of copies, for a share of the queries that is drawn by their names."""
    made: list[tuple[int, int, list[int]]] = []
    chance = config.filter.control_rows / max(everything, 1) if config.filter.wanted() else 0.0
    most = config.neighbours
    for query, neighbours in zip(own["query"].tolist(), own["neighbours"]):
        name = paragraphs.name(query)
        if unit_interval(seed, "control", name) >= chance:
            continue
        count = int((neighbours != NONE).sum())
        document = int(paragraphs.documents[query])
        drawn = random_neighbours(seed, name, document, count, paragraphs.documents, paragraphs.unique)
        for kind, numbers in ((KINDS.index(RANDOM), drawn), (KINDS.index(COPIES), [query] * count)):
            kept = fitting(query, numbers, lengths, config.seq_length)
            if kept:
                made.append((kind, query, kept + [NONE] * (most - len(kept))))
    rows = np.zeros(len(made), context_dtype(most))
    for row, values in zip(rows, made):
        row["kind"], row["query"], row["neighbours"] = values
    return rows


def read_contexts(directory: Path, name: str, kind: str | None = REAL) -> npt.NDArray[np.void]:
    """Contexts of a shard, of one kind or of all."""
    rows = np.asarray(load_array(array_path(directory, CONTEXTS, name), f"Remove {directory / CONTEXTS}."))
    return rows if kind is None else rows[rows["kind"] == KINDS.index(kind)]
