"""A custom model family: SmolLM3 (``model_type: smollm3`` in its config.json).

It is Llama except for one thing: every fourth layer has no rotary position embedding. Megatron-Core has an option for
that in its configuration, so the family is one entry in a table. Name this file in a recipe under ``extensions``, or
for commands without a recipe in the environment variable ``MEGATRON_IPT_EXTENSIONS``.
"""

from collections.abc import Iterator
from typing import Any

from megatron_ipt.models.families import FAMILIES, Family, ModelShape
from megatron_ipt.models.presets import PRESETS

INTERVAL = 4


def without_rotation(layers: int) -> list[int]:
    """1 for each layer that has no rotary position embedding."""
    return [int((layer + 1) % INTERVAL == 0) for layer in range(layers)]


def options(shape: ModelShape) -> dict[str, Any]:
    """Arguments of Megatron-Core's ``TransformerConfig``, in addition to the sizes."""
    return {"no_rope_freq": without_rotation(shape.num_layers)}


def problems(config: dict[str, Any]) -> Iterator[str]:
    """What a ``config.json`` asks for that the family below does not have."""
    # transformers writes 1 for the layers that have a rotary embedding.
    rotated = [1 - missing for missing in without_rotation(config["num_hidden_layers"])]
    if config.get("no_rope_layers") not in (None, rotated):
        yield f"no_rope_layers={config['no_rope_layers']} is not supported; supported: every {INTERVAL}th layer without"
    elif config.get("no_rope_layer_interval", INTERVAL) != INTERVAL and "no_rope_layers" not in config:
        yield f"no_rope_layer_interval={config['no_rope_layer_interval']} is not supported; supported: {INTERVAL}"


FAMILIES["smollm3"] = Family(
    "SmolLM3ForCausalLM",
    FAMILIES["llama"].layer,
    config={**FAMILIES["llama"].config, "no_rope_layer_interval": INTERVAL},
    absent={"num_key_value_heads": 4, "rope_theta": 2_000_000.0, "tie_word_embeddings": True},
    sliding_window="optional",
    options=options,
    problems=problems,
)
PRESETS["smollm3_3b"] = {
    "family": "smollm3", "num_layers": 36, "hidden_size": 2048, "ffn_hidden_size": 11008,
    "num_attention_heads": 16, "num_query_groups": 4, "max_position_embeddings": 32768,
    "rotary_base": 2000000.0, "norm_epsilon": 1e-6, "untie_embeddings_and_output_weights": False,
}  # fmt: skip
