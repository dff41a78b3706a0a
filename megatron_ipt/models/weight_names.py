"""Weight names and sizes on both sides, as tables.

A row pairs one Megatron-Core tensor with the Hugging Face tensors it holds and says how large each is, in the words of
:func:`sizes`. Megatron-Core stacks the layers of a tensor under one name, ``decoder.layers.<name>`` with the layer as
first dimension and, in a mixture of experts, the expert as second; Hugging Face writes ``model.layers.<i>.<name>``.
Adding a family is a row in ``FAMILIES``; how rows lie in each other is :mod:`megatron_ipt.convert.tensor_mapping`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_ipt.models.families import ModelShape

MEGATRON_LAYERS = "decoder.layers"
HUGGING_FACE_LAYERS = "model.layers"


@dataclass(frozen=True)
class Row:
    """One Megatron-Core tensor and the Hugging Face tensors in it.

    Attributes:
        megatron: name, without the prefix of the layers.
        hugging_face: names in the order in which they lie; ``{expert}`` stands for the expert's number.
        rows: size of each one's first dimension.
        columns: size of their second dimension; empty for vectors.
        by_group: the parts alternate, a share of each for every key-value group, instead of lying one after another.
        padded: the Megatron-Core tensor has more rows, to make it divisible among ranks.
    """

    megatron: str
    hugging_face: tuple[str, ...]
    rows: tuple[str, ...]
    columns: str = ""
    by_group: bool = False
    padded: bool = False

    @property
    def per_expert(self) -> bool:
        return "{expert}" in self.hugging_face[0]


@dataclass(frozen=True)
class FamilyNames:
    """A family on the Hugging Face side: class, config values that are fixed, and weight tables."""

    model_type: str
    architecture: str
    layer_rows: tuple[Row, ...]
    config: tuple[tuple[str, Any], ...] = ()

    def outer_rows(self, shape: ModelShape) -> tuple[Row, ...]:
        """Tensors outside the layers; a tied model has no output layer of its own."""
        return _TIED if not shape.untie_embeddings_and_output_weights else (*_TIED, _OUTPUT)


def sizes(shape: ModelShape, vocab_size: int) -> dict[str, int]:
    """The sizes that rows are written in."""
    return {
        "hidden": shape.hidden_size,
        "ffn": shape.ffn_hidden_size,
        "queries": shape.num_attention_heads * shape.kv_channels,
        "keys": shape.num_query_groups * shape.kv_channels,
        "channels": shape.kv_channels,
        "experts": shape.num_moe_experts or 0,
        "vocabulary": vocab_size,
    }


def _qkv(kind: str, columns: str) -> Row:
    names = tuple(f"self_attn.{part}_proj.{kind}" for part in "qkv")
    return Row(f"self_attention.linear_qkv.{kind}", names, ("queries", "keys", "keys"), columns, by_group=True)


_TIED = (
    Row("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), ("vocabulary",), "hidden", padded=True),
    Row("decoder.final_layernorm.weight", ("model.norm.weight",), ("hidden",)),
)
_OUTPUT = Row("output_layer.weight", ("lm_head.weight",), ("vocabulary",), "hidden", padded=True)

_ATTENTION = (
    Row("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm.weight",), ("hidden",)),
    _qkv("weight", "hidden"),
    Row("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), ("hidden",), "queries"),
)
_DENSE = (
    Row("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm.weight",), ("hidden",)),
    Row("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("ffn", "ffn"), "hidden"),
    Row("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), ("hidden",), "ffn"),
)
_QK_NORM = (
    Row("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",), ("channels",)),
    Row("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",), ("channels",)),
)
_MOE = "block_sparse_moe"
_EXPERTS = (
    Row("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), ("hidden",)),
    Row("mlp.router.weight", (f"{_MOE}.gate.weight",), ("experts",), "hidden"),
    Row(
        "mlp.experts.experts.linear_fc1.weight",
        (f"{_MOE}.experts.{{expert}}.w1.weight", f"{_MOE}.experts.{{expert}}.w3.weight"),
        ("ffn", "ffn"),
        "hidden",
    ),
    Row("mlp.experts.experts.linear_fc2.weight", (f"{_MOE}.experts.{{expert}}.w2.weight",), ("hidden",), "ffn"),
)

_NO_WINDOW = ("sliding_window", None)
FAMILIES = {
    # The window's own default is not null, so it must be said.
    "mistral": FamilyNames("mistral", "MistralForCausalLM", (*_ATTENTION, *_DENSE), (_NO_WINDOW,)),
    "llama": FamilyNames(
        "llama", "LlamaForCausalLM", (*_ATTENTION, *_DENSE), (("attention_bias", False), ("mlp_bias", False))
    ),
    "qwen2": FamilyNames(
        "qwen2", "Qwen2ForCausalLM", (*_ATTENTION, _qkv("bias", ""), *_DENSE), (("use_sliding_window", False),)
    ),
    "qwen3": FamilyNames(
        "qwen3", "Qwen3ForCausalLM", (*_ATTENTION, *_QK_NORM, *_DENSE),
        (("attention_bias", False), ("use_sliding_window", False)),
    ),
    "mixtral": FamilyNames(
        "mixtral", "MixtralForCausalLM", (*_ATTENTION, *_EXPERTS), (_NO_WINDOW, ("output_router_logits", False))
    ),
}  # fmt: skip
