"""The weights of a transformer layer under both their names, as a table.

A row pairs one Megatron-Core tensor with the Hugging Face tensors stored in it and gives the size of each by name, so
that names, shapes, parameter counts and operations all follow from the same list. Megatron-Core stacks the layers of a
tensor under one name, ``decoder.layers.<name>``, with the layer as first dimension and, in a mixture of experts, the
expert as second; Hugging Face has one tensor per layer, ``model.layers.<i>.<name>``. In which order the rows lie is
:mod:`megatron_ipt.models.tensor_mapping`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MEGATRON_LAYERS = "decoder.layers"
HUGGING_FACE_LAYERS = "model.layers"

SIZES = ("hidden", "ffn", "queries", "keys", "channels", "experts", "vocabulary")
"""Names that rows and columns are given by; the numbers are :meth:`megatron_ipt.models.families.ModelShape.sizes`."""


@dataclass(frozen=True)
class Weight:
    """One Megatron-Core tensor and the Hugging Face tensors in it.

    Attributes:
        megatron: name, without the prefix of the layers.
        hugging_face: names in the order in which they are stored; ``{expert}`` stands for the expert's number.
        rows: size of each one's first dimension, by name.
        columns: size of their second dimension, by name; empty for vectors.
        by_group: the tensors alternate, one share of each per key-value group, instead of following one another.
        padded: the Megatron-Core tensor has additional rows, so that it can be divided among ranks.
        replicated: every tensor-parallel rank holds the whole tensor; the others are divided among the ranks.

    Raises:
        ValueError: a size has no such name, or names and rows differ in number.
    """

    megatron: str
    hugging_face: tuple[str, ...]
    rows: tuple[str, ...]
    columns: str = ""
    by_group: bool = False
    padded: bool = False
    replicated: bool = False

    def __post_init__(self) -> None:
        unknown = {*self.rows, self.columns} - {*SIZES, ""}
        if unknown:
            raise ValueError(f"{self.megatron}: unknown size {', '.join(unknown)}; known sizes: {', '.join(SIZES)}")
        if not self.rows or len(self.rows) != len(self.hugging_face):
            raise ValueError(f"{self.megatron}: {len(self.hugging_face)} tensors, but {len(self.rows)} numbers of rows")

    @property
    def per_expert(self) -> bool:
        return "{expert}" in self.hugging_face[0]

    @property
    def is_matrix(self) -> bool:
        """Whether it takes part in a matrix product; the others are norms and biases."""
        return bool(self.columns)

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Shapes of the Hugging Face tensors of one layer (and expert), ``[rows]`` or ``[rows, columns]``."""
        columns = (sizes[self.columns],) if self.columns else ()
        return [(sizes[rows], *columns) for rows in self.rows]

    def parameters(self, sizes: Mapping[str, int]) -> int:
        """Number of elements in one layer (and expert)."""
        return sum(sizes[rows] for rows in self.rows) * (sizes[self.columns] if self.columns else 1)


def _qkv(kind: str, columns: str) -> Weight:
    names = tuple(f"self_attn.{part}_proj.{kind}" for part in "qkv")
    return Weight(f"self_attention.linear_qkv.{kind}", names, ("queries", "keys", "keys"), columns, by_group=True)


def _norm(megatron: str, hugging_face: str, rows: str = "hidden") -> Weight:
    return Weight(megatron, (hugging_face,), (rows,), replicated=True)


EMBEDDING = Weight(
    "embedding.word_embeddings.weight", ("model.embed_tokens.weight",), ("vocabulary",), "hidden", padded=True
)
FINAL_NORM = _norm("decoder.final_layernorm.weight", "model.norm.weight")
OUTPUT_LAYER = Weight("output_layer.weight", ("lm_head.weight",), ("vocabulary",), "hidden", padded=True)
"""Absent where the embedding is shared ("tied")."""

ATTENTION = (
    _norm("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
    _qkv("weight", "hidden"),
    Weight("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), ("hidden",), "queries"),
)
QKV_BIAS = (_qkv("bias", ""),)
QK_NORM = (
    _norm("self_attention.q_layernorm.weight", "self_attn.q_norm.weight", "channels"),
    _norm("self_attention.k_layernorm.weight", "self_attn.k_norm.weight", "channels"),
)
GATED_MLP = (
    _norm("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm.weight"),
    Weight("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("ffn", "ffn"), "hidden"),
    Weight("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), ("hidden",), "ffn"),
)
_MOE = "block_sparse_moe"
GATED_EXPERTS = (
    _norm("pre_mlp_layernorm.weight", "post_attention_layernorm.weight"),
    Weight("mlp.router.weight", (f"{_MOE}.gate.weight",), ("experts",), "hidden", replicated=True),
    Weight(
        "mlp.experts.experts.linear_fc1.weight",
        (f"{_MOE}.experts.{{expert}}.w1.weight", f"{_MOE}.experts.{{expert}}.w3.weight"),
        ("ffn", "ffn"),
        "hidden",
    ),
    Weight("mlp.experts.experts.linear_fc2.weight", (f"{_MOE}.experts.{{expert}}.w2.weight",), ("hidden",), "ffn"),
)
