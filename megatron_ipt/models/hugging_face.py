"""The sizes of a model from the ``config.json`` of its Hugging Face folder, without transformers or torch.

What this package's families cannot express is refused by the name of the key, because a model that is built without it
would train, and be another model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.models.families import FAMILIES

CONFIG_FILE = "config.json"

_FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "kv_channels": "head_dim",
    "max_position_embeddings": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "init_method_std": "initializer_range",
    "num_moe_experts": "num_local_experts",
    "moe_router_topk": "num_experts_per_tok",
}
_LLAMA3_SCALING = {
    "rope_scaling_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_max_position_embeddings": "original_max_position_embeddings",
}
_REFUSED = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
"""Keys of the configuration and the values that the families here have."""


def config_file(path: str | Path) -> Path:
    """``config.json`` of a folder, or the file itself when it is named."""
    path = Path(path)
    return path / CONFIG_FILE if path.is_dir() else path


def read_model_config(path: str | Path) -> tuple[dict[str, Any], int]:
    """Fields of :class:`~megatron_ipt.models.families.ModelShape` and the vocabulary size of a Hugging Face model.

    A sliding attention window becomes ``max_position_embeddings``: within it the model is the same, and beyond it the
    one built here would not be.

    Args:
        path: the folder or its ``config.json``.

    Raises:
        InputError: the file is missing, lacks a size, or asks for what no family here has.
    """
    file = config_file(path)
    config = read_json(file)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError(
            f"{file}: model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}. An extension can add "
            "it: see docs/own_model_family.md"
        )
    for name, allowed in _REFUSED.items():
        if name in config and config[name] not in allowed:
            raise InputError(f"{file}: {name}={config[name]!r} is not supported; supported: {allowed[0]!r}")
    for problem in FAMILIES[family].problems(config):
        raise InputError(f"{file}: {problem}")
    values: dict[str, Any] = {
        ours: config[theirs] for ours, theirs in _FIELDS.items() if config.get(theirs) is not None
    }
    for name in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "max_position_embeddings"):
        if name not in values:
            raise InputError(f"{file}: key {_FIELDS[name]} is missing")
    if "vocab_size" not in config:
        raise InputError(f"{file}: key vocab_size is missing")
    values.setdefault("num_query_groups", values["num_attention_heads"])
    values["untie_embeddings_and_output_weights"] = not config.get("tie_word_embeddings", False)
    values["family"] = family
    if not FAMILIES[family].mixture_of_experts:
        values.pop("num_moe_experts", None)
        values.pop("moe_router_topk", None)
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True):
        values["max_position_embeddings"] = min(window, values["max_position_embeddings"])
    return values | _rotary(config, file), int(config["vocab_size"])


def _rotary(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Base and scaling, as transformers 5 (``rope_parameters``) and earlier (``rope_theta``, ``rope_scaling``) say."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return {"rotary_base": float(base)}
    if kind != "llama3":
        raise InputError(f"{file}: rotary scaling of type {kind!r} is not supported; supported: default, llama3")
    missing = [theirs for theirs in _LLAMA3_SCALING.values() if theirs not in parameters]
    if missing:
        raise InputError(f"{file}: rotary scaling llama3 lacks {', '.join(missing)}")
    return {"rotary_base": float(base), **{ours: parameters[theirs] for ours, theirs in _LLAMA3_SCALING.items()}}
