"""Where the rows of each Hugging Face tensor lie in its Megatron-Core tensor.

Every layout of the supported families is a reordering of whole rows, so that both directions are the same list of runs
read one way or the other, and neither needs more than a block of rows in memory. Queries, keys and values lie by
key-value group (a group's queries, then its key, then its value), so that tensor parallelism can cut between groups;
gate and up lie one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.weight_names import FAMILIES, HUGGING_FACE_LAYERS, MEGATRON_LAYERS, Row, sizes


@dataclass(frozen=True)
class Run:
    """``count`` rows that are neighbours on both sides.

    Attributes:
        megatron: first of them in the Megatron-Core tensor of one layer.
        hugging_face: first of them in the Hugging Face tensor.
    """

    megatron: int
    hugging_face: int
    count: int


@dataclass(frozen=True)
class Part:
    """One Hugging Face tensor and its place.

    Attributes:
        shape: of the Hugging Face tensor, ``[rows]`` or ``[rows, columns]``.
        megatron: name of the tensor that holds it, with the prefix of the layers.
        index: layer, or layer and expert, in front of that tensor's rows; empty outside the layers.
    """

    name: str
    shape: tuple[int, ...]
    megatron: str
    index: tuple[int, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Joined:
    """One Megatron-Core tensor of one layer (and expert), and the parts it is made of.

    Attributes:
        shape: of that layer's tensor.
        stack: sizes of the dimensions that Megatron-Core puts in front: layers, or layers and experts.
        by_group: the parts alternate; else they lie one after another.
    """

    megatron: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    stack: tuple[int, ...]
    parts: tuple[Part, ...]
    by_group: bool


def runs(rows: tuple[int, ...], groups: int) -> list[tuple[Run, ...]]:
    """Runs of parts with these numbers of rows that alternate ``groups`` times; 1 for one after another."""
    shares = [count // groups for count in rows]
    stride = sum(shares)
    return [
        tuple(Run(group * stride + sum(shares[:part]), group * share, share) for group in range(groups))
        for part, share in enumerate(shares)
    ]


def tensors(shape: ModelShape, vocab_size: int, padded_vocab_size: int) -> Iterator[Joined]:
    """Every tensor of a model, in the order of a Hugging Face file: embedding, layers, final norm, output layer."""
    names = FAMILIES[shape.family]
    embedding, *rest = names.outer_rows(shape)
    known = sizes(shape, vocab_size)
    yield _join(embedding, shape, known, padded_vocab_size, (), ())
    for layer in range(shape.num_layers):
        for row in names.layer_rows:
            experts = shape.num_moe_experts or 0
            if row.per_expert:
                for expert in range(experts):
                    index, stack = (layer, expert), (shape.num_layers, experts)
                    yield _join(row, shape, known, padded_vocab_size, index, stack)
            else:
                yield _join(row, shape, known, padded_vocab_size, (layer,), (shape.num_layers,))
    for row in rest:
        yield _join(row, shape, known, padded_vocab_size, (), ())


def _join(
    row: Row,
    shape: ModelShape,
    known: dict[str, int],
    padded_vocab_size: int,
    index: tuple[int, ...],
    stack: tuple[int, ...],
) -> Joined:
    rows = tuple(known[name] for name in row.rows)
    columns = (known[row.columns],) if row.columns else ()
    prefix = (f"{MEGATRON_LAYERS}.", f"{HUGGING_FACE_LAYERS}.{index[0]}.") if index else ("", "")
    megatron = prefix[0] + row.megatron
    layout = runs(rows, shape.num_query_groups if row.by_group else 1)
    expert = index[1] if len(index) > 1 else None
    parts = tuple(
        Part(prefix[1] + name.format(expert=expert), (count, *columns), megatron, index, part_runs)
        for name, count, part_runs in zip(row.hugging_face, rows, layout)
    )
    total = padded_vocab_size if row.padded else sum(rows)
    return Joined(megatron, index, (total, *columns), stack, parts, row.by_group)
