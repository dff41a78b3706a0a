"""Projection on the simplex: by hand, and against its definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies

from megatron_ipt.selection.pds.simplex import project as project_rows

torch = pytest.importorskip("torch")


def project(values: list[float]) -> npt.NDArray[np.float64]:
    projected: npt.NDArray[np.float64] = project_rows(torch.tensor([values], dtype=torch.float64))[0].numpy()
    return projected


def test_by_hand() -> None:
    assert project([0.5, 0.4, -0.3, 0.9]).tolist() == pytest.approx([7 / 30, 4 / 30, 0, 19 / 30], abs=1e-15)
    assert project([0.2, 0.3, 0.5]).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert project([-5.0]).tolist() == [1.0]


@given(strategies.lists(strategies.floats(-10, 10), min_size=1, max_size=20))
def test_no_other_point_of_the_simplex_is_nearer(values: list[float]) -> None:
    """At the nearest point, no corner lies in the direction of what was given: (v - p) . (corner - p) <= 0."""
    found = project(values)
    assert (found >= 0).all() and found.sum() == pytest.approx(1)
    away = np.array(values) - found
    assert (away - away @ found <= 1e-9).all()
