"""The ``training.model`` section: which architecture, how large, or whose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import InputError
from megatron_ipt.models import divisibility
from megatron_ipt.models.families import FAMILIES, PRESETS, ModelShape, resolve_shape
from megatron_ipt.models.hugging_face import config_file, read_model_config


@dataclass
class ModelConfig:
    """Architecture. Keys left empty take the value of from_hf, or else the preset's."""

    family: str | None = key(None, "Architecture; mistral where nothing says otherwise.", choices=FAMILIES)
    preset: str = key("small", "Sizes to start from; the keys below win over it.", choices=PRESETS)
    from_hf: str | None = key(
        None,
        "Hugging Face folder whose sizes and weights to start from, in the place of a preset; "
        "its config.json, to take the sizes alone.",
    )
    num_layers: int | None = key(None, "Transformer layers.", minimum=1)
    hidden_size: int | None = key(None, "Width of the residual stream.", minimum=1)
    ffn_hidden_size: int | None = key(None, "Inner width of the feed-forward block, or of each expert.", minimum=1)
    num_attention_heads: int | None = key(None, "Query heads.", minimum=1)
    num_query_groups: int | None = key(None, "Key-value heads; equal to the query heads without grouping.", minimum=1)
    kv_channels: int | None = key(None, "Channels of one head; hidden_size / num_attention_heads if empty.", minimum=2)
    max_position_embeddings: int | None = key(None, "Longest sequence the model is meant for, in tokens.", minimum=2)
    rotary_base: float | None = key(None, "Base of the rotary position embedding.", minimum=1)
    rope_scaling_factor: float | None = key(
        None, "Llama 3.1's stretching of low rotary frequencies; empty for none.", minimum=1
    )
    rope_low_freq_factor: float | None = key(
        None, "Llama 3.1: wavelengths above the original length over this are stretched in full.", minimum=0
    )
    rope_high_freq_factor: float | None = key(
        None, "Llama 3.1: wavelengths below the original length over this are left alone.", minimum=0
    )
    rope_original_max_position_embeddings: int | None = key(
        None, "Llama 3.1: sequence length before the stretching, in tokens.", minimum=1
    )
    norm_epsilon: float | None = key(None, "Added to the variance in RMSNorm.", minimum=0)
    untie_embeddings_and_output_weights: bool | None = key(None, "Separate weights for embedding and output layer.")
    init_method_std: float | None = key(None, "Standard deviation of the initial weights.", minimum=0)
    num_moe_experts: int | None = key(None, "Experts of each layer (families with experts).", minimum=2)
    moe_router_topk: int | None = key(None, "Experts that each token is sent to.", minimum=1)
    moe_aux_loss_coeff: float = key(0.01, "Weight of the loss that keeps the experts equally busy.", minimum=0)
    attention: str = key(
        "auto",
        "Attention kernel: Transformer Engine's, torch's scaled_dot_product_attention, or the first there is.",
        choices=("auto", "transformer_engine", "torch"),
    )
    make_vocab_size_divisible_by: int = key(
        128, "The vocabulary is padded to a multiple of this; tensor parallelism must divide it.", minimum=1
    )

    def shape(self) -> ModelShape:
        """The complete sizes: own keys over those of ``from_hf`` or the preset.

        Raises:
            InputError: ``from_hf`` cannot be used.
        """
        base = None if self.from_hf is None else _hugging_face(self.from_hf)[0]
        return resolve_shape(asdict(self), base)

    def hugging_face_weights(self) -> Path | None:
        """The Hugging Face folder that the weights are to come from; None where they start at random."""
        if self.from_hf is None or config_file(self.from_hf) == Path(self.from_hf):
            return None
        return Path(self.from_hf)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.preset not in PRESETS or self.family not in (None, *FAMILIES):
            return
        try:
            shape = self.shape()
        except InputError as error:
            yield "from_hf", str(error)
            return
        yield from self._problems_of_heads(shape)
        if FAMILIES[shape.family].mixture_of_experts:
            if shape.num_moe_experts is None:
                yield "num_moe_experts", f"family {shape.family} has experts; say how many"
            elif shape.moe_router_topk > shape.num_moe_experts:
                yield "moe_router_topk", f"{shape.moe_router_topk} is above num_moe_experts={shape.num_moe_experts}"
        elif self.num_moe_experts is not None:
            with_experts = ", ".join(name for name, family in FAMILIES.items() if family.mixture_of_experts)
            yield "num_moe_experts", f"family {shape.family} has no experts; families that have: {with_experts}"

    def is_readable(self) -> bool:
        """Whether :meth:`shape` can be asked for: what is wrong otherwise is reported by :meth:`problems`."""
        if self.preset not in PRESETS or self.family not in (None, *FAMILIES):
            return False
        try:
            self.shape()
        except InputError:
            return False
        return True

    def _problems_of_heads(self, shape: ModelShape) -> Iterator[tuple[str, str]]:
        heads, groups = shape.num_attention_heads, shape.num_query_groups
        if (
            self.kv_channels is None
            and self.from_hf is None
            and shape.hidden_size % heads
            and (shape.kv_channels == shape.hidden_size // heads)
        ):
            yield (
                "hidden_size",
                f"{shape.hidden_size} is not divisible by num_attention_heads={heads}; "
                f"nearest that are: {divisibility.multiples(shape.hidden_size, heads)}. Or set kv_channels.",
            )
        if shape.kv_channels % 2:
            yield "kv_channels", f"{shape.kv_channels} is odd; rotary position embedding rotates pairs of channels"
        if heads % groups:
            yield (
                "num_query_groups",
                f"{groups} does not divide num_attention_heads={heads}; "
                f"nearest that do: {divisibility.divisors(heads, groups)}",
            )


@lru_cache(maxsize=8)
def _hugging_face(path: str) -> tuple[dict[str, Any], int]:
    return read_model_config(path)


def hugging_face_vocabulary(path: str) -> int:
    """Vocabulary size that ``config.json`` in ``path`` names."""
    return _hugging_face(path)[1]
