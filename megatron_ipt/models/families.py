"""Model families as one table: everything that distinguishes an architecture, for Megatron-Core and for Hugging Face.

A row of ``FAMILIES`` names the weights of a layer and what its ``config.json`` fixes; a :class:`ModelShape` has the
sizes of one model. Whatever builds, counts, saves, imports or exports a model reads these two, so adding a family means
adding a row. Nothing here needs torch, so that a recipe can be checked and planned without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from megatron_ipt.errors import InputError
from megatron_ipt.models import divisibility
from megatron_ipt.models.parameters import LayerParameters, ParameterCount
from megatron_ipt.models.weights import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED_EXPERTS,
    GATED_MLP,
    OUTPUT_LAYER,
    QK_NORM,
    QKV_BIAS,
    Weight,
)

SIZE_LIMITS = {
    "num_layers": 10_000,
    "hidden_size": 1 << 24,
    "ffn_hidden_size": 1 << 24,
    "num_attention_heads": 1 << 16,
    "num_query_groups": 1 << 16,
    "kv_channels": 1 << 16,
    "max_position_embeddings": (1 << 31) - 1,
    "num_moe_experts": 1 << 16,
    "moe_router_topk": 1 << 16,
    "rope_original_max_position_embeddings": (1 << 31) - 1,
}
"""Maximum of each size, far above any existing model: larger ones are typing errors or damaged files."""

_NUMBERS = {
    "rotary_base": 1.0,
    "norm_epsilon": 0.0,
    "init_method_std": 0.0,
    "rope_scaling_factor": 1.0,
    "rope_low_freq_factor": 0.0,
    "rope_high_freq_factor": 0.0,
}
"""Minimum of each."""


@dataclass(frozen=True)
class Family:
    """One architecture. Its name in ``FAMILIES`` is the ``model_type`` of its ``config.json``.

    Attributes:
        architecture: class of transformers.
        layer: weights of a layer, in the order in which they are exported.
        config: entries of ``config.json`` that are the same for every model of the family.
        absent: what it means if ``config.json`` lacks a key: the defaults of the class in transformers, where these
            differ between families.
        accepts: by key of ``config.json``, the values that the family can have or that make no difference to it, if
            these are not those of most families.
        sliding_window: whether the key ``sliding_window`` limits attention: ``no``; ``always``; ``optional``, that is
            only with ``use_sliding_window``.
        options: additional arguments of Megatron-Core's ``TransformerConfig``, given the model's shape.
        problems: what a ``config.json`` asks for and the family cannot express, as sentences.
        normalization: the only one that models are built with.
    """

    architecture: str
    layer: tuple[Weight, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, Any] = field(default_factory=dict)
    accepts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sliding_window: Literal["no", "always", "optional"] = "no"
    options: Callable[[ModelShape], dict[str, Any]] = lambda shape: {}
    problems: Callable[[dict[str, Any]], Iterator[str]] = lambda config: iter(())
    normalization: ClassVar[str] = "RMSNorm"

    @property
    def add_qkv_bias(self) -> bool:
        return self._has("self_attention.linear_qkv.bias")

    @property
    def qk_layernorm(self) -> bool:
        return self._has("self_attention.q_layernorm.weight")

    @property
    def mixture_of_experts(self) -> bool:
        return any(weight.per_expert for weight in self.layer)

    @property
    def gated_linear_unit(self) -> bool:
        """Whether the feed-forward block multiplies by a gate, whose weights precede those of the other half."""
        return any(weight.megatron.endswith("linear_fc1.weight") and len(weight.rows) == 2 for weight in self.layer)

    def _has(self, megatron: str) -> bool:
        return any(weight.megatron == megatron for weight in self.layer)


FAMILIES: dict[str, Family] = {
    "mistral": Family(
        "MistralForCausalLM",
        (*ATTENTION, *GATED_MLP),
        # The class has a window unless the file says null.
        config={"sliding_window": None},
        absent={"num_key_value_heads": 8, "sliding_window": 4096},
        sliding_window="always",
    ),
    "llama": Family(
        "LlamaForCausalLM", (*ATTENTION, *GATED_MLP), config={"attention_bias": False, "mlp_bias": False}
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        (*ATTENTION, *QKV_BIAS, *GATED_MLP),
        config={"use_sliding_window": False},
        absent={"num_key_value_heads": 32, "sliding_window": 4096},
        # The class has its biases whatever this key says.
        accepts={"attention_bias": (False, True)},
        sliding_window="optional",
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        (*ATTENTION, *QK_NORM, *GATED_MLP),
        config={"attention_bias": False, "use_sliding_window": False},
        absent={"num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096},
        sliding_window="optional",
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        (*ATTENTION, *GATED_EXPERTS),
        config={"sliding_window": None, "output_router_logits": False},
        absent={
            "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1_000_000.0,
        },
        sliding_window="always",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ModelShape:
    """Every size that defines a model; complete, unlike the recipe's section, which may leave keys to the preset.

    Attributes:
        num_query_groups: key-value heads.
        kv_channels: channels of one attention head.
        max_position_embeddings: longest sequence the model is meant for, in tokens.
        norm_epsilon: added to the variance in RMSNorm.
        num_moe_experts: feed-forward experts of a layer, each of ``ffn_hidden_size``; None where the family is dense.
        moe_router_topk: experts that each token is sent to.
        rope_scaling_factor: Llama 3.1's scaling of low rotary frequencies; None for none. The three fields after it
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

    def sizes(self, vocab_size: int) -> dict[str, int]:
        """The sizes that weights are written in (:data:`megatron_ipt.models.weights.SIZES`)."""
        return {
            "hidden": self.hidden_size,
            "ffn": self.ffn_hidden_size,
            "queries": self.num_attention_heads * self.kv_channels,
            "keys": self.num_query_groups * self.kv_channels,
            "channels": self.kv_channels,
            "experts": self.num_moe_experts or 0,
            "vocabulary": vocab_size,
        }

    def outer_weights(self) -> tuple[Weight, ...]:
        """Weights outside the layers: embedding, final norm and, unless it is tied to the embedding, output layer."""
        untied = (OUTPUT_LAYER,) if self.untie_embeddings_and_output_weights else ()
        return (EMBEDDING, FINAL_NORM, *untied)

    def parameter_count(self, vocab_size: int) -> ParameterCount:
        """Exact numbers of parameters.

        Args:
            vocab_size: rows of the embedding: the padded size of the model that is trained, the real one of an export.
        """
        sizes, experts = self.sizes(vocab_size), self.num_moe_experts or 0
        split = per_expert = whole = 0
        for weight in FAMILIES[self.family].layer:
            if weight.per_expert:
                per_expert += weight.parameters(sizes)
            elif weight.replicated:
                whole += weight.parameters(sizes)
            else:
                split += weight.parameters(sizes)
        return ParameterCount(
            embedding=EMBEDDING.parameters(sizes),
            layer=LayerParameters(split, per_expert * experts, whole),
            num_layers=self.num_layers,
            final_norm=FINAL_NORM.parameters(sizes),
            output_layer=OUTPUT_LAYER.parameters(sizes) if self.untie_embeddings_and_output_weights else 0,
            active_experts=per_expert * min(self.moe_router_topk, experts),
        )

    def parameters(self, vocab_size: int, active_only: bool = False) -> int:
        """Number of parameters, embedding and output layer included.

        Args:
            vocab_size: as for :meth:`parameter_count`.
            active_only: count only those experts of a layer that a token is sent to.
        """
        count = self.parameter_count(vocab_size)
        return count.active if active_only else count.total

    def problems(self, names: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
        """Why this is not a model, as (field, sentence).

        Args:
            names: what the sentences call the fields, where that is not their own name.
        """
        values, names = asdict(self), names or {}
        if not FAMILIES[self.family].mixture_of_experts:
            del values["num_moe_experts"], values["moe_router_topk"]
        elif self.num_moe_experts is None:
            yield "num_moe_experts", f"family {self.family} has experts; set their number"
            return
        if self.rope_scaling_factor is None:
            del values["rope_scaling_factor"]
        found = [(name, problem) for name, value in values.items() if (problem := size_problem(name, value))]
        yield from found
        if found:
            return
        heads, groups = self.num_attention_heads, self.num_query_groups
        if heads % groups:
            yield (
                "num_query_groups",
                f"{groups} does not divide {_called('num_attention_heads', names)}={heads}; "
                f"nearest that do: {divisibility.divisors(heads, groups)}",
            )
        if self.kv_channels % 2:
            yield "kv_channels", f"{self.kv_channels} is odd; rotary position embedding rotates pairs of channels"
        if self.num_moe_experts and self.moe_router_topk > self.num_moe_experts:
            most = f"{_called('num_moe_experts', names)}={self.num_moe_experts}"
            yield "moe_router_topk", f"{self.moe_router_topk} is greater than {most}"
        if self.rope_scaling_factor is not None and self.rope_low_freq_factor >= self.rope_high_freq_factor:
            high = f"{_called('rope_high_freq_factor', names)}={self.rope_high_freq_factor:g}"
            yield "rope_low_freq_factor", f"{self.rope_low_freq_factor:g} is not less than {high}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> ModelShape:
        """Reads what :meth:`as_dict` wrote; ``source`` names the file in errors.

        Raises:
            InputError: a value is missing, unknown or not possible, or the family does not exist here.
        """
        try:
            shape = cls(**values)
        except TypeError as error:
            raise InputError(f"{source}: not a model shape that this version can read: {error}") from error
        if shape.family not in FAMILIES:
            raise InputError(f"{source}: unknown model family {shape.family!r}; known: {', '.join(FAMILIES)}")
        for name, problem in shape.problems():
            raise InputError(f"{source}: {name}: {problem}")
        return shape


def size_problem(name: str, value: Any) -> str | None:
    """What is wrong with the value of one field of :class:`ModelShape`, by itself; None if nothing is."""
    if name in SIZE_LIMITS and (type(value) is not int or not 1 <= value <= SIZE_LIMITS[name]):
        return f"{value!r} is not a whole number from 1 to {SIZE_LIMITS[name]:,}"
    if name == "untie_embeddings_and_output_weights" and not isinstance(value, bool):
        return f"{value!r} is neither true nor false"
    if name in _NUMBERS:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < _NUMBERS[name]:
            return f"{value!r} is not a number of at least {_NUMBERS[name]:g}"
    return None


def padded_vocabulary(vocab_size: int, divisible_by: int) -> int:
    """``vocab_size`` rounded up to a multiple of ``divisible_by``: the same for every parallel layout, so that any
    layout can load the checkpoint of another."""
    return -(-vocab_size // divisible_by) * divisible_by


def _called(field_name: str, names: Mapping[str, str]) -> str:
    return names.get(field_name, field_name)
