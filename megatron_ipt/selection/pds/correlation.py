"""Spearman's rank correlation, with ties at their mean rank."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Pearson's correlation of the ranks; nan where one of the two is constant, or has fewer than two values."""
    ranks = [mean_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    centred = [values - values.mean() if len(values) else values for values in ranks]
    scale = np.sqrt(centred[0] @ centred[0]) * np.sqrt(centred[1] @ centred[1])
    return float(centred[0] @ centred[1] / scale) if scale > 0 else float("nan")


def mean_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[place]
