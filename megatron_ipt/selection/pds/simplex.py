"""Euclidean projection on the simplex: the weights nearest to given numbers that are not negative and add up to 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def project(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``max(v - c, 0)`` with the c that makes the sum 1, found by sorting; exact zeros where nothing is left.

    Args:
        values: [rows], finite.
    """
    given = np.asarray(values, np.float64)
    falling = np.sort(given)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(falling) + 1)
    kept = int(np.flatnonzero(falling > excess)[-1])
    projected: npt.NDArray[np.float64] = np.maximum(given - excess[kept], 0)
    return projected
