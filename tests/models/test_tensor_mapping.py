from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, strategies

from megatron_ipt.models.families import FAMILIES
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.models.tensor_mapping import (
    RowRange,
    count_hugging_face_tensors,
    hugging_face_shapes,
    megatron_shapes,
    megatron_tensors,
    row_ranges,
)


def shape_of(family, **sizes):
    preset = "tiny_moe" if FAMILIES[family].mixture_of_experts else "tiny"
    return resolve_shape({"preset": preset, "family": family, **sizes})


def test_queries_keys_and_values_alternate_by_group():
    # Two groups of two query heads, one key and one value head, two channels each.
    query, key, value = row_ranges((8, 4, 4), 2)
    assert query == (RowRange(0, 0, 4), RowRange(8, 4, 4))
    assert key == (RowRange(4, 0, 2), RowRange(12, 2, 2))
    assert value == (RowRange(6, 0, 2), RowRange(14, 2, 2))


def test_gate_comes_before_up():
    assert row_ranges((3, 3), 1) == [(RowRange(0, 0, 3),), (RowRange(3, 0, 3),)]


@given(strategies.lists(strategies.integers(1, 5), min_size=1, max_size=4), strategies.integers(1, 6))
def test_every_row_has_one_place_on_each_side(shares, groups):
    parts = row_ranges(tuple(share * groups for share in shares), groups)
    places = sorted(row for part in parts for rows in part for row in range(rows.megatron, rows.megatron + rows.count))
    assert places == list(range(sum(shares) * groups))
    for share, part in zip(shares, parts):
        found = [row for rows in part for row in range(rows.hugging_face, rows.hugging_face + rows.count)]
        assert found == list(range(share * groups))


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_have_exactly_the_parameters_of_the_model(family):
    shape = shape_of(family)
    tensors = list(megatron_tensors(shape, 500, 512))
    assert sum(prod(part.shape) for tensor in tensors for part in tensor.parts) == shape.parameters(500)
    assert sum(prod(tensor.shape) for tensor in tensors) == shape.parameters(512)
    names = [part.name for tensor in tensors for part in tensor.parts]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("untied", [False, True])
def test_lists_of_shapes_are_those_of_the_tensors(family, untied):
    shape = shape_of(family, untie_embeddings_and_output_weights=untied)
    tensors = list(megatron_tensors(shape, 500, 512))
    expected = {part.name: part.shape for tensor in tensors for part in tensor.parts}
    assert dict(hugging_face_shapes(shape, 500)) == expected
    assert count_hugging_face_tensors(shape) == len(expected)
    assert dict(megatron_shapes(shape, 512)) == {tensor.name: (*tensor.stack, *tensor.shape) for tensor in tensors}
    by_layer = dict(megatron_shapes(shape, 512, stacked=False))
    assert sum(map(prod, by_layer.values())) == shape.parameters(512)
    assert "decoder.layers.1.self_attention.linear_proj.weight" in by_layer


def test_counting_tensors_takes_no_time_however_many_there_are():
    shape = shape_of("mixtral", num_layers=10_000, num_moe_experts=1 << 16)
    # In a layer: 2 norms, 4 projections, a router, 3 matrices per expert.
    assert count_hugging_face_tensors(shape) == 10_000 * (2 + 4 + 1 + 3 * (1 << 16)) + 3
