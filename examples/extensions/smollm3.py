"""A model family of your own: SmolLM3 (``model_type: smollm3`` in its config.json).

It is Llama but for one thing: every fourth layer has no rotary position embedding. Megatron-Core has that as an option
of its configuration, so the family is two rows: what the architecture fixes, and what Hugging Face calls it. Named in a
recipe under ``extensions``, or for commands without a recipe in the environment variable ``MEGATRON_IPT_EXTENSIONS``.
"""

from collections.abc import Iterator
from typing import Any

from megatron_ipt.models import families, weight_names as names

INTERVAL = 4


def without_rotation(layers: int) -> list[int]:
    """1 for each layer that has no rotary position embedding."""
    return [int((layer + 1) % INTERVAL == 0) for layer in range(layers)]


def options(shape: families.ModelShape) -> dict[str, Any]:
    """What Megatron-Core's ``TransformerConfig`` is told beside the sizes."""
    return {"no_rope_freq": without_rotation(shape.num_layers)}


def problems(config: dict[str, Any]) -> Iterator[str]:
    """What a ``config.json`` may ask for that the two rows below do not say."""
    # transformers writes 1 for the layers that have one.
    rotated = [1 - missing for missing in without_rotation(config["num_hidden_layers"])]
    if config.get("no_rope_layers") not in (None, rotated):
        yield f"no_rope_layers={config['no_rope_layers']} is not supported; supported: every {INTERVAL}th layer without"
    elif config.get("no_rope_layer_interval", INTERVAL) != INTERVAL and "no_rope_layers" not in config:
        yield f"no_rope_layer_interval={config['no_rope_layer_interval']} is not supported; supported: {INTERVAL}"


families.FAMILIES["smollm3"] = families.Family(options=options, problems=problems)
families.PRESETS["smollm3_3b"] = {
    "family": "smollm3", "num_layers": 36, "hidden_size": 2048, "ffn_hidden_size": 11008,
    "num_attention_heads": 16, "num_query_groups": 4, "max_position_embeddings": 32768,
    "rotary_base": 2000000.0, "norm_epsilon": 1e-6, "untie_embeddings_and_output_weights": False,
}  # fmt: skip
names.FAMILIES["smollm3"] = names.FamilyNames(
    "smollm3",
    "SmolLM3ForCausalLM",
    names.FAMILIES["llama"].layer_rows,
    (("attention_bias", False), ("mlp_bias", False), ("no_rope_layer_interval", INTERVAL)),
)
