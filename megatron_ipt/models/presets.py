"""Sizes of known models by name, and how the keys of a recipe override them."""

from __future__ import annotations

from typing import Any

from megatron_ipt.models.families import FAMILIES, ModelShape

_DEFAULTS: dict[str, Any] = {
    "rotary_base": 10000.0,
    "norm_epsilon": 1e-5,
    "untie_embeddings_and_output_weights": True,
    "init_method_std": 0.02,
}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 160,
        "num_attention_heads": 4, "num_query_groups": 2, "max_position_embeddings": 256,
    },
    "small": {
        "num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 704,
        "num_attention_heads": 4, "num_query_groups": 2, "max_position_embeddings": 512,
    },
    "instructlm_500m": {
        "num_layers": 16, "hidden_size": 1536, "ffn_hidden_size": 4320,
        "num_attention_heads": 24, "num_query_groups": 4, "max_position_embeddings": 2048,
    },
    "instructlm_1.3b": {
        "num_layers": 24, "hidden_size": 2048, "ffn_hidden_size": 6144,
        "num_attention_heads": 32, "num_query_groups": 8, "max_position_embeddings": 2048,
    },
    "llama3_8b": {
        "family": "llama", "num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336,
        "num_attention_heads": 32, "num_query_groups": 8, "max_position_embeddings": 8192,
        "rotary_base": 500000.0,
    },
    "llama3.1_8b": {
        "family": "llama", "num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336,
        "num_attention_heads": 32, "num_query_groups": 8, "max_position_embeddings": 131072,
        "rotary_base": 500000.0, "rope_scaling_factor": 8.0,
    },
    "qwen2.5_1.5b": {
        "family": "qwen2", "num_layers": 28, "hidden_size": 1536, "ffn_hidden_size": 8960,
        "num_attention_heads": 12, "num_query_groups": 2, "max_position_embeddings": 32768,
        "rotary_base": 1000000.0, "norm_epsilon": 1e-6, "untie_embeddings_and_output_weights": False,
    },
    "qwen3_0.6b": {
        "family": "qwen3", "num_layers": 28, "hidden_size": 1024, "ffn_hidden_size": 3072,
        "num_attention_heads": 16, "num_query_groups": 8, "kv_channels": 128, "max_position_embeddings": 40960,
        "rotary_base": 1000000.0, "norm_epsilon": 1e-6, "untie_embeddings_and_output_weights": False,
    },
    "mixtral_8x7b": {
        "family": "mixtral", "num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336,
        "num_attention_heads": 32, "num_query_groups": 8, "max_position_embeddings": 32768,
        "rotary_base": 1000000.0, "num_moe_experts": 8, "moe_router_topk": 2,
    },
    "tiny_moe": {
        "family": "mixtral", "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96,
        "num_attention_heads": 4, "num_query_groups": 2, "max_position_embeddings": 256,
        "num_moe_experts": 4, "moe_router_topk": 2,
    },
}  # fmt: skip
"""Sizes by preset. ``tiny`` and ``tiny_moe`` (0.1M without vocabulary) are for tests, ``small`` (3M) trains on one CPU
core. A preset without a family has the first of ``FAMILIES``."""


def resolve_shape(keys: dict[str, Any], base: dict[str, Any] | None = None) -> ModelShape:
    """The shape that a recipe's ``model`` section describes: its own keys override the preset, which overrides the
    defaults.

    Args:
        keys: ``preset`` and any field of :class:`ModelShape`; None keeps the value of the preset.
        base: sizes to use instead of a preset's.
    """
    given = {name: keys.get(name) for name in ModelShape.__dataclass_fields__}
    values = {
        **_DEFAULTS,
        **(PRESETS[keys["preset"]] if base is None else base),
        **{name: value for name, value in given.items() if value is not None},
    }
    values.setdefault("family", next(iter(FAMILIES)))
    # Without a width of its own, each head has its share of the hidden size. Fewer than one head is reported later.
    values.setdefault("kv_channels", values["hidden_size"] // max(1, values["num_attention_heads"]))
    if not FAMILIES[values["family"]].mixture_of_experts:
        values["num_moe_experts"] = None
    return ModelShape(**values)
