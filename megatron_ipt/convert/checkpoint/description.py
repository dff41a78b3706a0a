"""What model is in a checkpoint.

Our own checkpoints describe themselves in ``model.json``. Those of Megatron-LM have the arguments of its command line
in ``common.pt``, from which the same description is made; what no family here has is rejected with the argument's name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ipt.convert.checkpoint.reader import CheckpointReader
from megatron_ipt.convert.checkpoint.writer import COMMON
from megatron_ipt.convert.dtypes import type_name
from megatron_ipt.convert.formats import torch_file
from megatron_ipt.convert.formats.stored_tensor import SourceFile
from megatron_ipt.errors import InputError
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.training.checkpoints.model_file import MODEL_FILE, ModelFile

_EMBEDDING = "embedding.word_embeddings.weight"
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "squared_relu": (False, None),
    "activation_func_clamp_value": (None,),
    "glu_linear_offset": (0.0, None),
    "add_bias_linear": (False,),
    "apply_layernorm_1p": (False, None),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1.0,),
    "rotary_interleaved": (False, None),
    "multi_latent_attention": (False, None),
    "experimental_attention_variant": (None,),
    "attention_output_gate": (False, None),
    "softmax_type": ("vanilla", None),
    "qk_l2_norm": (False, None),
    "apply_residual_connection_post_layernorm": (False, None),
    "moe_shared_expert_intermediate_size": (None,),
    "moe_layer_freq": (None, 1),
    "moe_router_pre_softmax": (False, None),
    "moe_router_score_function": ("softmax", None),
    "moe_router_enable_expert_bias": (False, None),
    "moe_router_topk_scaling_factor": (None,),
    "moe_router_num_groups": (None,),
    "mtp_num_layers": (None, 0),
    "window_size": (None,),
}
"""Arguments of Megatron-LM and the values that the families here have; those that may be None may be missing."""


def describe(
    folder: Path, reader: CheckpointReader, family: str | None = None, vocab_size: int | None = None
) -> ModelFile:
    """What is in the checkpoint, from ``model.json`` or else from Megatron-LM's arguments.

    Args:
        family: for checkpoints of Megatron-LM, which do not say whether they are a Llama or a Mistral.
        vocab_size: for checkpoints of Megatron-LM that only give the padded size.

    Raises:
        InputError: neither file is there, or the model is of no family here.
    """
    if (folder / MODEL_FILE).is_file():
        return ModelFile.read(folder)
    path = folder / COMMON
    if not path.is_file():
        raise InputError(f"{folder}: has neither {MODEL_FILE} nor {COMMON}, so the model is unknown")
    content, _ = torch_file.read_object(SourceFile(path))
    arguments = content.get("args") if isinstance(content, dict) else None
    if arguments is None:
        raise InputError(f"{path}: has no args, so the model is unknown")
    if _EMBEDDING not in reader.names():
        raise InputError(f"{folder}: has no tensor {_EMBEDDING}, so it is not the checkpoint of a GPT model")
    padded = reader.shape(_EMBEDDING)[0]
    get = _getter(arguments, path)
    samples, seq_length = int(get("consumed_train_samples", 0)), int(get("seq_length", get("max_position_embeddings")))
    return ModelFile(
        shape=_shape(get, path, family),
        vocab_size=vocab_size or get("vocab_size", None) or padded,
        padded_vocab_size=padded,
        dtype=type_name(reader.dtype(_EMBEDDING)),
        seq_length=seq_length,
        iteration=int(content.get("iteration") or 0),
        consumed_train_samples=samples,
        consumed_tokens=samples * seq_length,
        files={},
    )


_NONE = object()


def _getter(arguments: Any, path: Path) -> Callable[..., Any]:
    known = vars(arguments)

    def get(name: str, default: Any = _NONE) -> Any:
        value = known.get(name)
        if value is None and default is _NONE:
            raise InputError(f"{path}: args lacks {name}, so the model is unknown")
        return default if value is None else value

    return get


def _shape(get: Callable[..., Any], path: Path, family: str | None) -> ModelShape:
    for name, allowed in _REQUIRED.items():
        value = get(name, None) if None in allowed else get(name)
        if value not in allowed:
            raise InputError(f"{path}: the model has {name}={value!r}; the families here have {allowed[0]!r}")
    experts = get("num_experts", None)
    family = family or _family(bool(experts), bool(get("add_qkv_bias", False)), bool(get("qk_layernorm", False)))
    if family not in FAMILIES:
        raise InputError(f"--family {family}: not supported; supported: {', '.join(FAMILIES)}")
    heads, width = get("num_attention_heads"), get("hidden_size")
    # What is not a possible size is reported at the end.
    derived = width // heads if type(width) is type(heads) is int and heads > 0 else 0
    values = {
        "family": family,
        "num_layers": get("num_layers"),
        "hidden_size": width,
        "ffn_hidden_size": get("moe_ffn_hidden_size", get("ffn_hidden_size")) if experts else get("ffn_hidden_size"),
        "num_attention_heads": heads,
        # Without grouping, the number of groups is left at 1 and means nothing.
        "num_query_groups": get("num_query_groups") if get("group_query_attention", False) else heads,
        "kv_channels": get("kv_channels", derived),
        "max_position_embeddings": get("max_position_embeddings"),
        "rotary_base": get("rotary_base", 10000),
        "norm_epsilon": get("norm_epsilon", get("layernorm_epsilon", 1e-5)),
        "untie_embeddings_and_output_weights": get("untie_embeddings_and_output_weights"),
        "init_method_std": get("init_method_std", 0.02),
        "num_moe_experts": experts,
        "moe_router_topk": get("moe_router_topk", 2),
        "rope_scaling_factor": get("rope_scaling_factor", 8.0) if get("use_rope_scaling", False) else None,
    }
    for name in ("rotary_base", "rope_scaling_factor"):
        if type(values[name]) is int:
            values[name] = float(values[name])
    shape = ModelShape.from_dict(values, str(path))
    without_rotation = get("no_rope_freq", None)
    if without_rotation is not None and "no_rope_freq" not in FAMILIES[family].options(shape):
        raise InputError(f"{path}: the model has no_rope_freq={without_rotation!r}; family {family} has None")
    return shape


def _family(experts: bool, qkv_bias: bool, qk_norm: bool) -> str:
    """The first family with these traits; among several that only differ in name, Llama."""
    for name in ("llama", *FAMILIES):
        row = FAMILIES[name]
        if (row.mixture_of_experts, row.add_qkv_bias, row.qk_layernorm) == (experts, qkv_bias, qk_norm):
            return name
    raise InputError(
        f"no family here has experts={experts}, bias on queries={qkv_bias} and norms on queries={qk_norm}; "
        f"supported: {', '.join(FAMILIES)}"
    )
