from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, strategies

from megatron_ipt.convert.tensor_mapping import Run, runs, tensors
from megatron_ipt.models.families import FAMILIES, resolve_shape


def test_queries_keys_and_values_alternate_by_group():
    # Two groups of two query heads, one key and one value head, two channels each.
    query, key, value = runs((8, 4, 4), 2)
    assert query == (Run(0, 0, 4), Run(8, 4, 4))
    assert key == (Run(4, 0, 2), Run(12, 2, 2))
    assert value == (Run(6, 0, 2), Run(14, 2, 2))


def test_gate_comes_before_up():
    assert runs((3, 3), 1) == [(Run(0, 0, 3),), (Run(3, 0, 3),)]


@given(strategies.lists(strategies.integers(1, 5), min_size=1, max_size=4), strategies.integers(1, 6))
def test_every_row_has_one_place_on_each_side(shares, groups):
    layout = runs(tuple(share * groups for share in shares), groups)
    places = sorted(row for part in layout for run in part for row in range(run.megatron, run.megatron + run.count))
    assert places == list(range(sum(shares) * groups))
    for share, part in zip(shares, layout):
        rows = [row for run in part for row in range(run.hugging_face, run.hugging_face + run.count)]
        assert rows == list(range(share * groups))


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_hold_exactly_the_parameters_of_the_model(family):
    preset = "tiny_moe" if FAMILIES[family].mixture_of_experts else "tiny"
    shape = resolve_shape({"preset": preset, "family": family})
    joined = list(tensors(shape, 500, 512))
    assert sum(prod(part.shape) for tensor in joined for part in tensor.parts) == shape.parameters(500)
    assert sum(prod(tensor.shape) for tensor in joined) == shape.parameters(512)
    names = [part.name for tensor in joined for part in tensor.parts]
    assert len(set(names)) == len(names)
