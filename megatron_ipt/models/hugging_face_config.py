"""``config.json`` of a Hugging Face model, read and written, without transformers or torch.

Reading: what this package's families cannot express is rejected with the name of the key, because a model built without
it would train, and be another model. A key that is absent means what it means to the class in transformers.

Writing: so that transformers 4 and 5, vLLM and TensorRT-LLM read the same, rotary settings have their older keys, which
all of them know, and the type of the weights has both its names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.models.families import FAMILIES, Family, ModelShape, size_problem
from megatron_ipt.models.presets import resolve_shape

CONFIG_FILE = "config.json"

_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "head_dim": "kv_channels",
}
_SETTINGS = {
    "max_position_embeddings": "max_position_embeddings",
    "initializer_range": "init_method_std",
    "rms_norm_eps": "norm_epsilon",
}
_EXPERTS = {"num_local_experts": "num_moe_experts", "num_experts_per_tok": "moe_router_topk"}
_LLAMA3_SCALING = {
    "factor": "rope_scaling_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_original_max_position_embeddings",
}
_FIELDS = {**_SIZES, **_SETTINGS, **_EXPERTS, **_LLAMA3_SCALING, "rope_theta": "rotary_base"}
_KEYS = {ours: theirs for theirs, ours in _FIELDS.items()}
"""Key of the file -> field of ``ModelShape``, and back."""
_REQUIRED = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings",
    "rms_norm_eps", "vocab_size",
)  # fmt: skip
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
}
"""Keys and the values that the families here have."""
_LAYER_TYPES = ("full_attention", "sliding_attention")
_LARGEST_VOCABULARY = (1 << 31) - 1


@dataclass(frozen=True)
class TokenIds:
    """Control ids of the tokenizer: beginning of sequence, end of document, padding. Chat models may end at several."""

    bos: int | None
    eod: int | list[int] | None
    pad: int | None


def config_file(path: str | Path) -> Path:
    """``config.json`` of a folder, or the file itself if ``path`` is one."""
    path = Path(path)
    return path / CONFIG_FILE if path.is_dir() else path


def read_model_config(path: str | Path) -> tuple[dict[str, Any], int]:
    """Fields of :class:`~megatron_ipt.models.families.ModelShape` and the vocabulary size of a Hugging Face model.

    A sliding attention window becomes ``max_position_embeddings``: within it the model is the same, and beyond it the
    one built here would not be.

    Args:
        path: the folder or its ``config.json``.

    Returns:
        The fields, without ``kv_channels`` where it follows from the others; and the vocabulary size.

    Raises:
        InputError: the file is missing, lacks a size, has one that no model has, or asks for what no family here has.
    """
    file = config_file(path)
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(config).__name__}")
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"{file}: model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}. An extension can add "
            "it: see docs/own_model_family.md"
        )
    row = FAMILIES[family]
    for name in _REQUIRED:
        if config.get(name) is None:
            raise InputError(f"{file}: key {name} is missing")
    config = {**row.absent, **config}
    values = {"family": family, **_sizes(config, row, file), **_rotary(config, row, file)}
    _reject_unsupported(config, row, file)
    values["untie_embeddings_and_output_weights"] = not _is_tied(config, file)
    window = _window(config, row, file)
    if window is not None:
        values["max_position_embeddings"] = min(window, values["max_position_embeddings"])
    for name, problem in resolve_shape({}, values).problems(_KEYS):
        raise InputError(f"{file}: {_KEYS.get(name, name)}: {problem}")
    vocab_size = config["vocab_size"]
    if type(vocab_size) is not int or not 1 <= vocab_size <= _LARGEST_VOCABULARY:
        raise InputError(f"{file}: vocab_size: {vocab_size!r} is not a whole number from 1 to {_LARGEST_VOCABULARY:,}")
    return values, vocab_size


def hugging_face_config(shape: ModelShape, vocab_size: int, tokens: TokenIds, dtype: str) -> dict[str, Any]:
    """Content of ``config.json``.

    Args:
        dtype: of the weights, as torch calls it: ``bfloat16``.
    """
    family, values = FAMILIES[shape.family], shape.as_dict()
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": shape.family,
        "vocab_size": vocab_size,
        **{theirs: values[ours] for theirs, ours in _SIZES.items()},
        "hidden_act": "silu",
        **{theirs: values[ours] for theirs, ours in _SETTINGS.items()},
        "rope_theta": shape.rotary_base,
        "rope_scaling": _rope_scaling(shape),
        "attention_dropout": 0.0,
        "tie_word_embeddings": not shape.untie_embeddings_and_output_weights,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eod,
        "pad_token_id": tokens.pad,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        **family.config,
    }
    if family.mixture_of_experts:
        config |= {theirs: values[ours] for theirs, ours in _EXPERTS.items()}
    return config


def generation_config(tokens: TokenIds) -> dict[str, Any]:
    """Content of ``generation_config.json``: greedy decoding that ends at the end-of-document token."""
    ids = {"bos_token_id": tokens.bos, "eos_token_id": tokens.eod, "pad_token_id": tokens.pad}
    return {"do_sample": False} | {name: value for name, value in ids.items() if value is not None}


def _sizes(config: dict[str, Any], family: Family, file: Path) -> dict[str, Any]:
    fields = {**_SIZES, **_SETTINGS, **(_EXPERTS if family.mixture_of_experts else {})}
    values = {ours: config[theirs] for theirs, ours in fields.items() if config.get(theirs) is not None}
    for name, value in values.items():
        problem = size_problem(name, value)
        if problem:
            raise InputError(f"{file}: {_KEYS[name]}: {problem}")
    values.setdefault("num_query_groups", values["num_attention_heads"])
    return values


def _reject_unsupported(config: dict[str, Any], family: Family, file: Path) -> None:
    for name, allowed in {**_ACCEPTED, **family.accepts}.items():
        if name in config and config[name] not in allowed:
            raise InputError(f"{file}: {name}={config[name]!r} is not supported; supported: {allowed[0]!r}")
    kinds = config.get("layer_types") or []
    others = [kind for kind in kinds if kind not in _LAYER_TYPES] if isinstance(kinds, list) else [kinds]
    if others:
        raise InputError(f"{file}: layer_types: {others[0]!r} is not supported; supported: {', '.join(_LAYER_TYPES)}")
    for problem in family.problems(config):
        raise InputError(f"{file}: {problem}")


def _is_tied(config: dict[str, Any], file: Path) -> bool:
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise InputError(f"{file}: tie_word_embeddings: {tied!r} is neither true nor false")
    return tied


def _window(config: dict[str, Any], family: Family, file: Path) -> int | None:
    """Tokens that attention looks back; None where that is all."""
    window = config.get("sliding_window")
    on = family.sliding_window == "always" or (family.sliding_window == "optional" and config.get("use_sliding_window"))
    if not on or window is None:
        return None
    problem = size_problem("max_position_embeddings", window)
    if problem:
        raise InputError(f"{file}: sliding_window: {problem}")
    return int(window)


def _rotary(config: dict[str, Any], family: Family, file: Path) -> dict[str, Any]:
    """Base and scaling, under the keys of transformers 5 (``rope_parameters``) or of earlier versions (``rope_theta``,
    ``rope_scaling``)."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    parameters = config.get(key) or {}
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise InputError(f"{file}: {key}: {parameters!r} is not supported; expected one set of parameters")
    given = (parameters.get("rope_theta"), config.get("rope_theta"), family.absent.get("rope_theta"), 10_000.0)
    values = {"rotary_base": next(base for base in given if base is not None)}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise InputError(f"{file}: {key}: type {kind!r} is not supported; supported: default, llama3")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        share = parameters["partial_rotary_factor"]
        raise InputError(f"{file}: {key}: partial_rotary_factor={share!r} is not supported; supported: 1.0")
    if kind == "llama3":
        missing = [name for name in _LLAMA3_SCALING if name not in parameters]
        if missing:
            raise InputError(f"{file}: {key}: llama3 lacks {', '.join(missing)}")
        values |= {ours: parameters[theirs] for theirs, ours in _LLAMA3_SCALING.items()}
    for name, value in values.items():
        problem = size_problem(name, value)
        if problem:
            raise InputError(f"{file}: {_KEYS[name]}: {problem}")
    return {name: value if name.endswith("embeddings") else float(value) for name, value in values.items()}


def _rope_scaling(shape: ModelShape) -> dict[str, Any] | None:
    if shape.rope_scaling_factor is None:
        return None
    values = shape.as_dict()
    return {"rope_type": "llama3", **{theirs: values[ours] for theirs, ours in _LLAMA3_SCALING.items()}}
