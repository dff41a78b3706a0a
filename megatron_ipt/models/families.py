"""Model families and presets as tables.

A family says what is fixed by an architecture (norms, biases, activation); a preset gives the sizes of one model; the
recipe's own keys win over the preset. Adding a family is a row here: everything that builds, saves or exports a model
reads :class:`ModelShape`. Nothing here needs torch, so that a recipe can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megatron_ipt.errors import InputError


@dataclass(frozen=True)
class Family:
    """What an architecture fixes, in the words of Megatron-Core's ``TransformerConfig``.

    Attributes:
        options: further arguments of ``TransformerConfig``, given the model's shape.
        problems: what in a Hugging Face ``config.json`` this family cannot express.
    """

    normalization: str = "RMSNorm"
    gated_linear_unit: bool = True
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    mixture_of_experts: bool = False
    options: Callable[[ModelShape], dict[str, Any]] = lambda shape: {}
    problems: Callable[[dict[str, Any]], Iterator[str]] = lambda config: iter(())


FAMILIES = {
    "mistral": Family(),
    "llama": Family(),
    "qwen2": Family(add_qkv_bias=True),
    "qwen3": Family(qk_layernorm=True),
    "mixtral": Family(mixture_of_experts=True),
}


@dataclass(frozen=True)
class ModelShape:
    """Every size that defines a model; complete, unlike the recipe's section, which may leave keys to the preset.

    Attributes:
        kv_channels: channels of one attention head.
        num_query_groups: key-value heads.
        max_position_embeddings: longest sequence the model is meant for, in tokens.
        norm_epsilon: added to the variance in RMSNorm.
        num_moe_experts: feed-forward experts of a layer, each of ``ffn_hidden_size``; None where the family is dense.
        moe_router_topk: experts that a token is sent to.
        rope_scaling_factor: Llama 3.1's stretching of low rotary frequencies; None for none. The three keys after it
            are what its ``rope_scaling`` calls low_freq_factor, high_freq_factor and original_max_position_embeddings.
    """

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    max_position_embeddings: int
    rotary_base: float
    norm_epsilon: float
    untie_embeddings_and_output_weights: bool
    init_method_std: float
    num_moe_experts: int | None = None
    moe_router_topk: int = 2
    rope_scaling_factor: float | None = None
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_max_position_embeddings: int = 8192

    def parameters(self, padded_vocab_size: int, active_only: bool = False) -> int:
        """Number of parameters, embedding and output layer included.

        Args:
            active_only: count of a layer's experts only those that a token is sent to.
        """
        family = FAMILIES[self.family]
        queries = self.num_attention_heads * self.kv_channels
        keys_values = 2 * self.num_query_groups * self.kv_channels
        attention = self.hidden_size * (2 * queries + keys_values)
        attention += (queries + keys_values) * family.add_qkv_bias + 2 * self.kv_channels * family.qk_layernorm
        mlp = (3 if family.gated_linear_unit else 2) * self.hidden_size * self.ffn_hidden_size
        if self.num_moe_experts:
            experts = self.moe_router_topk if active_only else self.num_moe_experts
            mlp = mlp * experts + self.hidden_size * self.num_moe_experts
        embeddings = padded_vocab_size * self.hidden_size * (2 if self.untie_embeddings_and_output_weights else 1)
        return self.num_layers * (attention + mlp + 2 * self.hidden_size) + self.hidden_size + embeddings

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> ModelShape:
        """Reads what :meth:`as_dict` wrote; ``source`` names the file in errors.

        Raises:
            InputError: a value is missing or unknown, or the family does not exist here.
        """
        try:
            shape = cls(**values)
        except TypeError as error:
            raise InputError(f"{source}: not a model shape that this version can read: {error}") from error
        if shape.family not in FAMILIES:
            raise InputError(f"{source}: unknown model family {shape.family!r}; known: {', '.join(FAMILIES)}")
        return shape


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
core. A preset without a family takes the first of ``FAMILIES``."""


def resolve_shape(keys: dict[str, Any], base: dict[str, Any] | None = None) -> ModelShape:
    """The shape that a recipe's ``model`` section means: its own keys over its preset's over the defaults.

    Args:
        keys: ``preset`` and any field of :class:`ModelShape`; None leaves the preset's value.
        base: sizes to start from in the place of the preset's.
    """
    given = {name: keys.get(name) for name in ModelShape.__dataclass_fields__}
    values = {
        **_DEFAULTS,
        **(PRESETS[keys["preset"]] if base is None else base),
        **{name: value for name, value in given.items() if value is not None},
    }
    values.setdefault("family", next(iter(FAMILIES)))
    # A width given without heads' channels follows the usual rule; one given with them is free of it.
    values.setdefault("kv_channels", values["hidden_size"] // values["num_attention_heads"])
    if not FAMILIES[values["family"]].mixture_of_experts:
        values["num_moe_experts"] = None
    return ModelShape(**values)


def padded_vocabulary(vocab_size: int, divisible_by: int) -> int:
    """``vocab_size`` rounded up to a multiple of ``divisible_by``: the same for every parallel layout, so that any
    layout can load the checkpoint of another."""
    return -(-vocab_size // divisible_by) * divisible_by
