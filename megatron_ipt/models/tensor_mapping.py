"""Where the rows of each Hugging Face tensor are stored in its Megatron-Core tensor.

For every family here, one is a reordering of whole rows of the other, so that import and export read the same list of
row ranges in opposite directions, and neither needs more than a block of rows in memory. Queries, keys and values are
stored by key-value group (a group's queries, then its key, then its value), so that tensor parallelism can cut between
groups; gate and up follow one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.weights import EMBEDDING, HUGGING_FACE_LAYERS, MEGATRON_LAYERS, Weight


@dataclass(frozen=True)
class RowRange:
    """``count`` rows that are neighbours on both sides.

    Attributes:
        megatron: first of them in the Megatron-Core tensor of one layer.
        hugging_face: first of them in the Hugging Face tensor.
    """

    megatron: int
    hugging_face: int
    count: int


@dataclass(frozen=True)
class HuggingFaceTensor:
    """One tensor of a Hugging Face model and its place.

    Attributes:
        shape: ``[rows]`` or ``[rows, columns]``.
        megatron: name of the tensor that it is stored in, with the prefix of the layers.
        index: layer, or layer and expert, which precede the rows in that tensor; empty outside the layers.
    """

    name: str
    shape: tuple[int, ...]
    megatron: str
    index: tuple[int, ...]
    ranges: tuple[RowRange, ...]


@dataclass(frozen=True)
class MegatronTensor:
    """One Megatron-Core tensor of one layer (and expert), and the Hugging Face tensors it is made of.

    Attributes:
        name: with the prefix of the layers.
        index: layer, or layer and expert; empty outside the layers.
        shape: of that layer's tensor.
        stack: sizes of the dimensions that Megatron-Core puts before it: layers, or layers and experts.
        by_group: the parts alternate; else they follow one another.
    """

    name: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    stack: tuple[int, ...]
    parts: tuple[HuggingFaceTensor, ...]
    by_group: bool


def row_ranges(rows: tuple[int, ...], groups: int) -> list[tuple[RowRange, ...]]:
    """Ranges of parts with these numbers of rows that alternate ``groups`` times; 1 if they follow one another."""
    shares = [count // groups for count in rows]
    stride = sum(shares)
    return [
        tuple(RowRange(group * stride + sum(shares[:part]), group * share, share) for group in range(groups))
        for part, share in enumerate(shares)
    ]


def megatron_tensors(shape: ModelShape, vocab_size: int, padded_vocab_size: int) -> Iterator[MegatronTensor]:
    """Every tensor of a model, in the order of a Hugging Face file: embedding, layers, final norm, output layer.

    Args:
        vocab_size: rows of the Hugging Face embedding.
        padded_vocab_size: rows of the Megatron-Core embedding.
    """
    sizes = shape.sizes(vocab_size)
    for weight, index in _weights(shape):
        prefix = f"{MEGATRON_LAYERS}." if index else ""
        stack = (shape.num_layers, shape.num_moe_experts or 0)[: len(index)]
        shapes = weight.shapes(sizes)
        rows = tuple(rows for rows, *_ in shapes)
        ranges = row_ranges(rows, shape.num_query_groups if weight.by_group else 1)
        parts = tuple(
            HuggingFaceTensor(name, part_shape, prefix + weight.megatron, index, part_ranges)
            for name, part_shape, part_ranges in zip(_hugging_face_names(weight, index), shapes, ranges)
        )
        joined = (padded_vocab_size, *shapes[0][1:]) if weight.padded else _joined(shapes)
        yield MegatronTensor(prefix + weight.megatron, index, joined, stack, parts, weight.by_group)


def megatron_shapes(
    shape: ModelShape, padded_vocab_size: int, stacked: bool = True
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and whole shape of every tensor in a checkpoint.

    Args:
        stacked: the layers share one tensor; otherwise each has one, whose name contains its number.
    """
    sizes = shape.sizes(padded_vocab_size)
    for weight in shape.outer_weights():
        yield weight.megatron, _joined(weight.shapes(sizes))
    for weight in FAMILIES[shape.family].layer:
        name = f"{MEGATRON_LAYERS}.{weight.megatron}"
        experts = (shape.num_moe_experts or 0,) if weight.per_expert else ()
        of_layer = (*experts, *_joined(weight.shapes(sizes)))
        if stacked:
            yield name, (shape.num_layers, *of_layer)
        else:
            yield from ((name_in_layer(name, layer), of_layer) for layer in range(shape.num_layers))


def name_in_layer(name: str, layer: int) -> str:
    """Name of the tensor ``name`` of all layers in a checkpoint where each layer has its own."""
    return name.replace(MEGATRON_LAYERS, f"{MEGATRON_LAYERS}.{layer}", 1)


def hugging_face_shapes(shape: ModelShape, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a Hugging Face model, one after another: there may be too many to list."""
    sizes = shape.sizes(vocab_size)
    for weight, index in _weights(shape):
        yield from zip(_hugging_face_names(weight, index), weight.shapes(sizes))


def count_hugging_face_tensors(shape: ModelShape) -> int:
    """How many tensors :func:`hugging_face_shapes` lists, without listing them."""
    experts = shape.num_moe_experts or 0
    of_layer = sum(
        len(weight.hugging_face) * (experts if weight.per_expert else 1) for weight in FAMILIES[shape.family].layer
    )
    return shape.num_layers * of_layer + len(shape.outer_weights())


def _weights(shape: ModelShape) -> Iterator[tuple[Weight, tuple[int, ...]]]:
    """(weight, index) of every Megatron-Core tensor."""
    yield EMBEDDING, ()
    for layer in range(shape.num_layers):
        for weight in FAMILIES[shape.family].layer:
            if weight.per_expert:
                yield from ((weight, (layer, expert)) for expert in range(shape.num_moe_experts or 0))
            else:
                yield weight, (layer,)
    yield from ((weight, ()) for weight in shape.outer_weights() if weight is not EMBEDDING)


def _hugging_face_names(weight: Weight, index: tuple[int, ...]) -> list[str]:
    prefix = f"{HUGGING_FACE_LAYERS}.{index[0]}." if index else ""
    expert = index[1] if len(index) > 1 else None
    return [prefix + name.format(expert=expert) for name in weight.hugging_face]


def _joined(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the tensor that parts with these shapes make up."""
    return (sum(rows for rows, *_ in shapes), *shapes[0][1:])
