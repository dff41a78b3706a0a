"""The nearest other paragraphs of each query, without its own document and without near-duplicates.

faiss finds more than enough by inner product or distance; which of them count is decided here from dot products in
double precision, ordered by nearness and then by number, so that neither batches nor threads nor the version of a BLAS
decide. Where the last one found might have been beaten by one that was not, more are fetched: the result is that of a
search through everything. Beyond a million vectors, an IVF index is searched instead, in which only some cells are
looked at. (40,000 vectors of 384: 3,800 queries a second and core exact, 38,000 with IVF.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.config import SearchConfig
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_path

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
NONE = -1
"""In place of a neighbour that there is not."""
RANKS = 20
"""Of plain neighbours, looked at for the report."""
_QUERIES_AT_ONCE = 256
_MOST_FETCHED = 1 << 24
"""Neighbours in memory at a time: 200 MB."""
_ROUNDING = 1e-5
"""Of faiss' scores, relative to the largest; they are in single precision."""
_TRAINING_PER_LIST = 64


@dataclass
class Found:
    """Neighbours of queries.

    Attributes:
        numbers: of the neighbours, the nearest first, [queries, k]; :data:`NONE` where there are fewer.
        nearness: dot product, or minus the squared distance, [queries, k]; NaN where there are fewer.
        same_document: by rank of the plain neighbours, how many are of the query's document, [RANKS].
        near_duplicates: by rank, how many are near-duplicates of the query, of another document, [RANKS].
    """

    numbers: Numbers
    nearness: npt.NDArray[np.float64]
    same_document: Numbers = field(default_factory=lambda: np.zeros(RANKS, np.int64))
    near_duplicates: Numbers = field(default_factory=lambda: np.zeros(RANKS, np.int64))


class Index:
    """Vectors that can be searched.

    Args:
        vectors: [paragraphs, dimension].
        documents: number of each paragraph's document, [paragraphs].
        config: section ``composition.search``.
        saved: file of a trained IVF index, made if it does not exist; all processes must search the same.

    Raises:
        InputError: there are not more paragraphs than candidates.
    """

    def __init__(self, vectors: Vectors, documents: Numbers, config: SearchConfig, saved: Path | None = None):
        if config.candidates >= len(vectors):
            raise InputError(
                f"composition.search.candidates: {config.candidates} neighbours are asked for, but there are only "
                f"{len(vectors)} different paragraphs; lower it, or add text"
            )
        self._vectors = vectors
        self._documents = documents
        self._config = config
        self._exact = len(vectors) <= config.exact_up_to
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        scaled = bool((abs(norms - 1) < 1e-6).all())
        self._units = vectors if scaled else (vectors / np.maximum(norms, 1e-30)[:, None]).astype(np.float32)
        self._largest = float(norms.max(initial=0.0)) ** 2
        self._index = self._build(saved)

    def _build(self, saved: Path | None) -> Any:
        import faiss

        dimension = self._vectors.shape[1]
        dot = self._config.metric == "dot"
        flat = faiss.IndexFlatIP(dimension) if dot else faiss.IndexFlatL2(dimension)
        if self._exact:
            flat.add(self._vectors)
            return flat
        if saved is not None and saved.is_file():
            index: Any = faiss.read_index(str(saved))
        else:
            count = len(self._vectors)
            lists = self._config.lists or max(1, round(4 * count**0.5))
            index = faiss.IndexIVFFlat(flat, dimension, lists, faiss.METRIC_INNER_PRODUCT if dot else faiss.METRIC_L2)
            step = max(1, count // max(lists * _TRAINING_PER_LIST, 1))
            index.train(np.ascontiguousarray(self._vectors[::step]))
            if saved is not None:
                with atomic_path(saved) as temporary:
                    faiss.write_index(index, str(temporary))
        index.add(self._vectors)
        index.nprobe = min(self._config.probes, index.nlist)
        return index

    def search(self, queries: Numbers, k: int) -> Found:
        """The ``k`` nearest of each query that may be its neighbours.

        Args:
            queries: numbers of paragraphs, [queries].
        """
        found = Found(np.full((len(queries), k), NONE, np.int64), np.full((len(queries), k), np.nan))
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            waiting = list(range(first, min(first + _QUERIES_AT_ONCE, len(queries))))
            fetched = min(len(self._vectors), 4 * k + RANKS)
            begun = True
            while waiting:
                room = max(1, _MOST_FETCHED // fetched)
                asked = [waiting[start : start + room] for start in range(0, len(waiting), room)]
                waiting = [place for part in asked for place in self._unfinished(found, queries, part, fetched, begun)]
                fetched, begun = min(len(self._vectors), fetched * 4), False
        return found

    def _unfinished(self, found: Found, queries: Numbers, places: list[int], fetched: int, begun: bool) -> list[int]:
        """Those of ``places`` for which the ``fetched`` nearest are not enough; enters what is known of all."""
        numbers = queries[places]
        scores, near = self._index.search(np.ascontiguousarray(self._vectors[numbers]), fetched)
        last = (scores if self._config.metric == "dot" else -scores)[:, -1].tolist()
        return [
            place
            for place, number, row, worst in zip(places, numbers.tolist(), near, last)
            if not self._take(found, place, number, row[row >= 0], worst, fetched, begun)
        ]

    def _take(
        self, found: Found, place: int, query: int, near: Numbers, last: float, fetched: int, begun: bool
    ) -> bool:
        """Enters what is known of one query; returns whether more could not change it."""
        k = found.numbers.shape[1]
        nearness = self._nearness(query, near)
        order = np.lexsort((near, -nearness))
        near, nearness = near[order], nearness[order]
        others = near != query
        near, nearness = near[others], nearness[others]
        cosines = self._units[near].astype(np.float64) @ self._units[query].astype(np.float64)
        own = self._documents[near] == self._documents[query]
        copies = cosines >= self._config.near_duplicate
        if begun:
            ranks = min(RANKS, len(near))
            found.same_document[:ranks] += own[:ranks]
            found.near_duplicates[:ranks] += copies[:ranks] & ~own[:ranks]
        allowed = np.flatnonzero(~copies & (~own if not self._config.same_document else True))
        kept = self._without_copies(near, allowed, k)
        found.numbers[place, : len(kept)] = near[kept]
        found.nearness[place, : len(kept)] = nearness[kept]
        if fetched >= len(self._vectors) or len(near) + 1 < fetched:
            # Everything was seen: all there is, or all that the cells hold.
            return True
        return len(kept) == k and nearness[kept[-1]] > last + _ROUNDING * self._largest

    def _nearness(self, query: int, near: Numbers) -> npt.NDArray[np.float64]:
        one, others = self._vectors[query].astype(np.float64), self._vectors[near].astype(np.float64)
        if self._config.metric == "dot":
            return np.asarray((others * one).sum(1))
        return np.asarray(-((others - one) ** 2).sum(1))

    def _without_copies(self, near: Numbers, allowed: Numbers, k: int) -> list[int]:
        """The first ``k`` places of ``allowed`` that are no near-duplicates of an earlier one."""
        kept: list[int] = []
        for place in allowed.tolist():
            if len(kept) == k:
                break
            if kept:
                cosines = self._units[near[kept]].astype(np.float64) @ self._units[near[place]].astype(np.float64)
                if (cosines >= self._config.near_duplicate).any():
                    continue
            kept.append(place)
        return kept
