"""The objective, and that it is not something to learn by heart."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.selection.pds.language_model import TokenBatch, TokenRow, token_batches
from megatron_ipt.selection.pds.target import mean_loss, refuse_shared_rows


def test_every_row_counts_the_same() -> None:
    """The loss of a row is here theta times its first token; micro-batches of two rows and of one."""
    batches = token_batches([TokenRow(np.array([first, 0])) for first in (1, 2, 6)], 2)

    def losses(theta: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        return theta * batch.tokens[:, 0]

    parts = mean_loss(losses, batches)  # type: ignore[arg-type]
    assert [float(part(torch.tensor(2.0))) for part in parts] == [2, 4]


def test_a_target_needs_rows() -> None:
    with pytest.raises(InputError, match="the target set of PDS has no rows"):
        mean_loss(lambda theta, batch: torch.zeros(0), [])


def test_target_rows_that_are_trained_on_are_refused() -> None:
    target = [np.array([1, 2, 3]), np.array([4, 5], np.int32), np.array([6])]
    # A beginning of a row is another row, and so is one that only looks alike when its ends are not seen.
    refuse_shared_rows(target, [np.array([1, 2]), np.array([1, 2, 3, 4]), np.array([12, 3]), np.array([], np.int64)])
    with pytest.raises(
        InputError, match=re.escape("1 training rows are also target rows (target row 1 is training row 2)")
    ):
        refuse_shared_rows(target, [np.array([1, 2]), np.array([7]), np.array([4, 5])])
    with pytest.raises(InputError, match=r"7 training rows .*row 6, \.\.\.\)"):
        refuse_shared_rows(target, [np.array([0]), np.array([1]), *[np.array([1, 2, 3])] * 7])
