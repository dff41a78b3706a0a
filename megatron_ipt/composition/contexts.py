"""Which paragraphs stand in which context: as many of the nearest neighbours as fit, and the query last.

Neighbours enter in rounds, the nearest of every query first. Where a paragraph may occur in only so many contexts, the
queries nearest to it get it, and the others go on to their next neighbour; that depends on no order of work. A context
is closed by the first neighbour that does not fit, so what it holds is a beginning of the query's list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.search import NONE
from megatron_ipt.seeding import generator

Numbers = npt.NDArray[np.int64]
REAL, RANDOM, COPIES = KINDS = ("real", "random", "copies")
"""Contexts of neighbours; of random paragraphs and of copies of the query, for comparison."""


def assemble(
    queries: Numbers,
    neighbours: Numbers,
    nearness: npt.NDArray[np.float64],
    lengths: Numbers,
    seq_length: int,
    most: int,
    most_uses: int | None = None,
) -> Numbers:
    """The neighbours of each context, the nearest first, [queries, most], filled up with :data:`NONE`.

    Args:
        queries: numbers of paragraphs, [queries].
        neighbours, nearness: of each, the nearest first, [queries, k].
        lengths: tokens of every paragraph as it stands in a context, [paragraphs].
        seq_length: a context has fewer tokens.
        most: neighbours of a context.
        most_uses: contexts of a paragraph, as a neighbour.
    """
    taken = np.full((len(queries), most), NONE, np.int64)
    count = np.zeros(len(queries), np.int64)
    total = lengths[queries].astype(np.int64)
    is_open = np.ones(len(queries), np.bool_)
    uses = np.zeros(len(lengths), np.int64)
    for rank in range(neighbours.shape[1]):
        rows = np.flatnonzero(is_open & (count < most) & (neighbours[:, rank] != NONE))
        asked = neighbours[rows, rank]
        if most_uses is not None:
            free = uses[asked] < most_uses
            rows, asked = rows[free], asked[free]
        fits = total[rows] + lengths[asked] < seq_length
        is_open[rows[~fits]] = False
        rows, asked = rows[fits], asked[fits]
        if most_uses is not None:
            order = np.lexsort((queries[rows], -nearness[rows, rank], asked))
            rows, asked = rows[order], asked[order]
            starts = np.flatnonzero(np.r_[True, asked[1:] != asked[:-1]]) if len(asked) else asked
            place = np.arange(len(asked)) - np.repeat(starts, np.diff(np.r_[starts, len(asked)]))
            admitted = place < most_uses - uses[asked]
            rows, asked = rows[admitted], asked[admitted]
        taken[rows, count[rows]] = asked
        count[rows] += 1
        total[rows] += lengths[asked]
        np.add.at(uses, asked, 1)
    return taken


def random_neighbours(seed: int, name: str, own: int, count: int, documents: Numbers, allowed: Numbers) -> list[int]:
    """``count`` different paragraphs of other documents, drawn at random; fewer where there are no more.

    Args:
        name: of the query, from which the draw follows.
        own: number of its document.
        documents: of every paragraph.
        allowed: numbers of the paragraphs to draw from.
    """
    draws = generator(seed, "random context", name)
    drawn: dict[int, None] = {}
    # Rejection: almost all are of other documents.
    for _ in range(50 * count + 100):
        if len(drawn) == count:
            break
        number = int(allowed[draws.randrange(len(allowed))])
        if documents[number] != own:
            drawn[number] = None
    return list(drawn)


def fitting(query: int, neighbours: Sequence[int], lengths: Numbers, seq_length: int) -> list[int]:
    """The beginning of ``neighbours`` that fits into one context with its query."""
    total = int(lengths[query])
    kept: list[int] = []
    for number in neighbours:
        total += int(lengths[number])
        if total >= seq_length:
            break
        kept.append(number)
    return kept


def in_order(query: int, neighbours: Sequence[int], order: str, seed: int, name: str) -> list[int]:
    """The paragraphs of a context as they stand in it, the query last.

    Args:
        neighbours: the nearest first.
        order: ``nearest_last`` or ``shuffled``.
        name: of the query, from which the shuffle follows.
    """
    placed = list(reversed(neighbours))
    if order == "shuffled":
        generator(seed, "order of a context", name).shuffle(placed)
    return [*placed, query]
