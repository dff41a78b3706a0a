"""Which rows are kept: the beginning of an order by falling value, ties to the lower row, as arithmetic on arrays.

Nothing is sorted: the value at the cut is found by partitioning, in time and memory proportional to the rows, so that a
hundred million of them take seconds. Noise is a function of seed and id, so shards and order leave no trace.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from megatron_ipt.seeding import derive

Values = npt.NDArray[np.float64]
Weights = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]

_FEW = 1 << 16
"""Rows that are sorted instead of partitioned further."""
_CHUNK = 1 << 20


def floor_of(share: float, total: int) -> int:
    """floor(share * total), with the share as it is written in decimal: of 0.57 and 100 it is 57, not 56."""
    return int((Decimal(repr(share)) * total).to_integral_value(ROUND_FLOOR))


def largest(values: Values, count: int) -> Flags:
    """Flags of the ``count`` largest values, ties to the lower row.

    Args:
        values: [rows], without NaN.
        count: at most the number of rows.
    """
    if count <= 0:
        return np.zeros(len(values), np.bool_)
    if count >= len(values):
        return np.ones(len(values), np.bool_)
    place = len(values) - count
    cut = np.partition(values, place)[place]
    kept = values > cut
    ties = np.flatnonzero(values == cut)
    kept[ties[: count - int(kept.sum())]] = True
    return kept


def beginning(values: Values, weights: Weights, budget: int) -> Flags:
    """Flags of the longest beginning of the order, by falling value and rising row, whose weights add up to at most
    ``budget``.

    Args:
        values: [rows], without NaN.
        weights: [rows], not negative.
    """
    if int(weights.sum(dtype=np.int64)) <= budget:
        return np.ones(len(values), np.bool_)
    cut, above = _cut(values, weights, budget)
    kept = values > cut
    ties = np.flatnonzero(values == cut)
    fits = np.cumsum(weights[ties], dtype=np.int64) <= budget - above
    kept[ties[fits]] = True
    return kept


def _cut(values: Values, weights: Weights, budget: int) -> tuple[float, int]:
    """(value of the first row that no longer fits, weight of all rows with larger values)."""
    above = 0
    while len(values) > _FEW:
        middle = np.partition(values, len(values) // 2)[len(values) // 2]
        larger = values > middle
        weight = int(weights[larger].sum(dtype=np.int64))
        if above + weight > budget:
            values, weights = values[larger], weights[larger]
            continue
        above += weight
        equal = values == middle
        weight = int(weights[equal].sum(dtype=np.int64))
        if above + weight > budget:
            return float(middle), above
        above += weight
        smaller = values < middle
        values, weights = values[smaller], weights[smaller]
    order = np.argsort(-values, kind="stable")
    first = int(np.argmax(above + np.cumsum(weights[order], dtype=np.int64) > budget))
    cut = values[order[first]]
    return float(cut), above + int(weights[values > cut].sum(dtype=np.int64))


def uniform(seed: int, purpose: str, ids: npt.NDArray[np.uint64]) -> Values:
    """A number in (0, 1) for each hashed id, determined by seed, purpose and id.

    Two rounds of the finalizer of SplitMix64 on the hash of the id, because a digest each would take minutes.
    """
    made = np.empty(len(ids), np.float64)
    salts = [np.uint64(derive(seed, purpose, part)) for part in range(2)]
    for first in range(0, len(ids), _CHUNK):
        mixed = ids[first : first + _CHUNK].astype(np.uint64)
        for salt in salts:
            mixed += salt
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        # 52 bits and a half: neither 0 nor 1, whose logarithms are of no use.
        made[first : first + _CHUNK] = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return made


def gumbel_keys(scores: Values, temperature: float, uniforms: Values) -> Values:
    """``s / tau - ln(-ln u)``: the k largest are a draw of k without replacement by weights ``exp(s / tau)``
    (Plackett-Luce)."""
    return scores / temperature - np.log(-np.log(uniforms))


def ranks(values: npt.NDArray[np.generic]) -> Values:
    """Ranks from 0, those of ties averaged."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    averaged: Values = (ends - (counts + 1) / 2)[place]
    return averaged


def spearman(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> float:
    """Rank correlation; 0 where one of them is constant."""
    one, two = ranks(first), ranks(second)
    one, two = one - one.mean(), two - two.mean()
    scale = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum()) / scale if scale else 0.0
