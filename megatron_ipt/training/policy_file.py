"""Files of policies: how much each row of the training data weighs in each step, as [steps, rows].

``weights.npy`` (fp64, every line non-negative with sum 1) and ``policy.json`` with the counts and where it came from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_folder, read_json, write_json

WEIGHTS, DESCRIPTION = "weights.npy", "policy.json"
_SUM_TOLERANCE = 1e-6


def write_policy(folder: Path, weights: npt.NDArray[np.float64], source: dict[str, Any]) -> None:
    """Writes a policy as a whole, in place of an earlier one."""
    with atomic_folder(folder) as temporary:
        np.save(temporary / WEIGHTS, weights)
        write_json(temporary / DESCRIPTION, {"steps": weights.shape[0], "rows": weights.shape[1], "source": source})


def read_policy(folder: Path) -> npt.NDArray[np.float64]:
    """The weights, mapped into memory.

    Raises:
        InputError: a file is missing or damaged, or weights of a step are negative or do not add up to 1; names it.
    """
    description = read_json(folder / DESCRIPTION)
    path = folder / WEIGHTS
    try:
        weights: npt.NDArray[np.float64] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the weights of a policy: {error}") from error
    expected = (description.get("steps"), description.get("rows"))
    if weights.shape != expected:
        raise InputError(f"{path}: has shape {weights.shape}, but {DESCRIPTION} says {expected}; copy both again")
    sums, lowest = weights.sum(1), weights.min(1)
    # Not ``> tolerance``: a weight that is no number is neither.
    wrong = np.flatnonzero(~((np.abs(sums - 1) <= _SUM_TOLERANCE) & (lowest >= 0)))
    if len(wrong):
        step = int(wrong[0])
        raise InputError(
            f"{path}: the weights of step {step + 1} add up to {sums[step]:.6g}, the lowest is {lowest[step]:.6g}; "
            f"they must not be negative and add up to 1 ({len(wrong)} steps do not)"
        )
    return weights
