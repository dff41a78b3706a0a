"""Recipe section ``training.model``: which architecture, and how large, or the sizes of an existing model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import InputError
from megatron_ipt.models import divisibility
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.hugging_face_config import config_file, read_model_config
from megatron_ipt.models.presets import PRESETS, resolve_shape


@dataclass
class ModelConfig:
    """Architecture. Keys left empty take the value of from_hf if given, else the preset's."""

    family: str | None = key(None, "Architecture; mistral by default.", choices=FAMILIES)
    preset: str = key("small", "Sizes to start from; the keys below override it.", choices=PRESETS)
    from_hf: str | None = key(
        None,
        "Hugging Face folder whose sizes and weights to start from instead of a preset; its config.json, to take the "
        "sizes only.",
    )
    num_layers: int | None = key(None, "Transformer layers.")
    hidden_size: int | None = key(None, "Width of the residual stream.")
    ffn_hidden_size: int | None = key(None, "Inner width of the feed-forward block, or of each expert.")
    num_attention_heads: int | None = key(None, "Query heads.")
    num_query_groups: int | None = key(None, "Key-value heads; equal to the query heads without grouping.")
    kv_channels: int | None = key(None, "Channels of one head; hidden_size / num_attention_heads if empty.")
    max_position_embeddings: int | None = key(None, "Longest sequence the model is meant for, in tokens.")
    rotary_base: float | None = key(None, "Base of the rotary position embedding.")
    rope_scaling_factor: float | None = key(
        None, "Llama 3.1: factor by which low rotary frequencies are divided; empty for none."
    )
    rope_low_freq_factor: float | None = key(
        None, "Llama 3.1: wavelengths above the original length divided by this are scaled in full."
    )
    rope_high_freq_factor: float | None = key(
        None, "Llama 3.1: wavelengths below the original length divided by this are not scaled."
    )
    rope_original_max_position_embeddings: int | None = key(
        None, "Llama 3.1: sequence length before the scaling, in tokens."
    )
    norm_epsilon: float | None = key(None, "Added to the variance in RMSNorm.")
    untie_embeddings_and_output_weights: bool | None = key(None, "Separate weights for embedding and output layer.")
    init_method_std: float | None = key(None, "Standard deviation of the initial weights.")
    num_moe_experts: int | None = key(None, "Experts of each layer (families with experts).")
    moe_router_topk: int | None = key(None, "Experts that each token is sent to.")
    moe_aux_loss_coeff: float = key(0.01, "Weight of the auxiliary loss that balances the experts.", minimum=0)
    attention: str = key(
        "auto",
        "Attention kernel: Transformer Engine's, torch's scaled_dot_product_attention, or the first available.",
        choices=("auto", "transformer_engine", "torch"),
    )
    make_vocab_size_divisible_by: int = key(
        128,
        "The vocabulary is padded to a multiple of this; tensor parallelism must divide it.",
        minimum=1,
        maximum=1 << 20,
    )

    def shape(self) -> ModelShape:
        """The complete sizes: own keys override those of ``from_hf`` or the preset.

        Raises:
            InputError: ``from_hf`` cannot be used.
        """
        base = None if self.from_hf is None else _hugging_face(self.from_hf)[0]
        return resolve_shape(asdict(self), base)

    def hugging_face_weights(self) -> Path | None:
        """The Hugging Face folder whose weights to start from; None for random initial weights."""
        if self.from_hf is None or config_file(self.from_hf) == Path(self.from_hf):
            return None
        return Path(self.from_hf)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self._names_exist():
            return
        try:
            shape = self.shape()
        except InputError as error:
            yield "from_hf", str(error)
            return
        yield from self._problem_of_width(shape)
        yield from shape.problems()
        if self.num_moe_experts is not None and not FAMILIES[shape.family].mixture_of_experts:
            with_experts = ", ".join(name for name, family in FAMILIES.items() if family.mixture_of_experts)
            yield "num_moe_experts", f"family {shape.family} has no experts; families that do: {with_experts}"

    def is_readable(self) -> bool:
        """Whether :meth:`shape` gives a possible model; if not, :meth:`problems` says why."""
        try:
            return self._names_exist() and not any(self.shape().problems())
        except InputError:
            return False

    def _problem_of_width(self, shape: ModelShape) -> Iterator[tuple[str, str]]:
        """A hidden size that does not divide into heads, where that is how wide they are."""
        width, heads = shape.hidden_size, shape.num_attention_heads
        if self.kv_channels is not None or self.from_hf is not None or heads < 1 or width < 1:
            return
        if width % heads and shape.kv_channels == width // heads:
            yield (
                "hidden_size",
                f"{width} is not divisible by num_attention_heads={heads}; "
                f"nearest that are: {divisibility.multiples(width, heads)}. Or set kv_channels.",
            )

    def _names_exist(self) -> bool:
        """Whether family and preset are known; those that are not are reported by the keys' choices."""
        return self.preset in PRESETS and self.family in (None, *FAMILIES)


@lru_cache(maxsize=8)
def _hugging_face(path: str) -> tuple[dict[str, Any], int]:
    return read_model_config(path)


def hugging_face_vocabulary(path: str) -> int:
    """Vocabulary size in the ``config.json`` at ``path``."""
    return _hugging_face(path)[1]
