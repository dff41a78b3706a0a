"""Which checkpoint is meant, whether it is complete, and what model is in it.

Our own checkpoints describe themselves in ``model.json``. Those of Megatron-LM carry the arguments of its command line
in ``common.pt``, from which the same description is made; what no family here has is refused by the argument's name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ipt.convert.checkpoint.reader import BACKEND, METADATA, CheckpointReader
from megatron_ipt.convert.checkpoint.writer import COMMON
from megatron_ipt.convert.dtypes import type_name
from megatron_ipt.convert.formats import torch_file
from megatron_ipt.convert.formats.stored_tensor import SourceFile
from megatron_ipt.errors import InputError
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.training.checkpoints.model_file import (
    MODEL_FILE,
    RELEASE,
    TRACKER,
    ModelFile,
    iteration_folder,
    restore_hint,
)

_EMBEDDING = "embedding.word_embeddings.weight"
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "add_bias_linear": (False,),
    "apply_layernorm_1p": (False, None),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1.0,),
    "rotary_interleaved": (False, None),
    "multi_latent_attention": (False, None),
    "moe_shared_expert_intermediate_size": (None,),
    "moe_layer_freq": (None, 1),
    "moe_router_pre_softmax": (False, None),
    "moe_router_score_function": ("softmax", None),
    "mtp_num_layers": (None, 0),
    "window_size": (None,),
}
"""Arguments of Megatron-LM and the values that the families here have; those that can be None may be missing."""


def find_checkpoint(path: Path, iteration: int | None = None) -> Path:
    """The complete checkpoint folder that ``path`` means: itself, or the one of ``iteration`` or of the tracker in it.

    Raises:
        InputError: there is none, or it is still being written.
    """
    if (path / METADATA).is_file() or path.name.startswith("iter_") or path.name == RELEASE:
        return _complete(path)
    if iteration is not None:
        folder = iteration_folder(path, iteration)
        if not folder.is_dir():
            raise InputError(f"export.iteration: {folder} does not exist; checkpoints there: {_there(path)}")
        return _complete(folder)
    tracker = path / TRACKER
    if not tracker.is_file():
        raise InputError(f"{path}: holds no complete checkpoint: {TRACKER} is missing; folders there: {_there(path)}")
    text = tracker.read_text().strip()
    if text != RELEASE and not text.isdigit():
        raise InputError(f"{tracker}: expected the number of an iteration or {RELEASE!r}, found {text[:40]!r}")
    folder = path / RELEASE if text == RELEASE else iteration_folder(path, int(text))
    if not folder.is_dir():
        raise InputError(f"{tracker}: names {text}, but {folder} does not exist. {restore_hint(folder)}")
    return _complete(folder)


def _there(path: Path) -> str:
    if not path.is_dir():
        return "no such folder"
    names = [*sorted(entry.name for entry in path.glob("iter_*")), *(entry.name for entry in path.glob(RELEASE))]
    return ", ".join(names) or "none"


def _complete(folder: Path) -> Path:
    """Refuses what a training is still writing: the metadata comes last, and the tracker after it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for name in (METADATA, BACKEND):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: not a complete distributed checkpoint: {name} is missing. It is written last: a training "
                "may still be writing, or was ended while it did."
            )
    tracker = folder.parent / TRACKER
    number = folder.name.removeprefix("iter_")
    if not (folder / MODEL_FILE).is_file() and number.isdigit() and tracker.is_file():
        text = tracker.read_text().strip()
        if text.isdigit() and int(text) < int(number):
            raise InputError(f"{folder}: is being written: {tracker.name} still names iteration {text}")
    return folder


def describe(
    folder: Path, reader: CheckpointReader, family: str | None = None, vocab_size: int | None = None
) -> ModelFile:
    """What is in the checkpoint, from ``model.json`` or else from Megatron-LM's arguments.

    Args:
        family: of a checkpoint of Megatron-LM, which does not say whether it is a Llama or a Mistral.
        vocab_size: of a checkpoint of Megatron-LM, where it only says the padded one.

    Raises:
        InputError: neither file is there, or the model is of no family here.
    """
    if (folder / MODEL_FILE).is_file():
        return ModelFile.read(folder)
    path = folder / COMMON
    if not path.is_file():
        raise InputError(f"{folder}: holds neither {MODEL_FILE} nor {COMMON}, so the model is not known")
    content, _ = torch_file.read_object(SourceFile(path))
    arguments = content.get("args") if isinstance(content, dict) else None
    if arguments is None:
        raise InputError(f"{path}: holds no args, so the model is not known")
    if _EMBEDDING not in reader.names():
        raise InputError(f"{folder}: holds no {_EMBEDDING}, so it is not the checkpoint of a GPT model")
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
            raise InputError(f"{path}: args lacks {name}, so the model is not known")
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
    heads = get("num_attention_heads")
    scaled = get("use_rope_scaling", False)
    return ModelShape(
        family=family,
        num_layers=get("num_layers"),
        hidden_size=get("hidden_size"),
        ffn_hidden_size=get("moe_ffn_hidden_size", get("ffn_hidden_size")) if experts else get("ffn_hidden_size"),
        num_attention_heads=heads,
        # Without grouping, the number of groups is left at 1 and means nothing.
        num_query_groups=get("num_query_groups") if get("group_query_attention", False) else heads,
        kv_channels=get("kv_channels", get("hidden_size") // heads),
        max_position_embeddings=get("max_position_embeddings"),
        rotary_base=float(get("rotary_base", 10000)),
        norm_epsilon=get("norm_epsilon", get("layernorm_epsilon", 1e-5)),
        untie_embeddings_and_output_weights=get("untie_embeddings_and_output_weights"),
        init_method_std=get("init_method_std", 0.02),
        num_moe_experts=experts,
        moe_router_topk=get("moe_router_topk", 2),
        rope_scaling_factor=float(get("rope_scaling_factor", 8.0)) if scaled else None,
    )


def _family(experts: bool, qkv_bias: bool, qk_norm: bool) -> str:
    """The first family with these traits; of several that only differ in name, Llama."""
    for name in ("llama", *FAMILIES):
        row = FAMILIES[name]
        if (row.mixture_of_experts, row.add_qkv_bias, row.qk_layernorm) == (experts, qkv_bias, qk_norm):
            return name
    raise InputError(
        f"no family here has experts={experts}, bias on queries={qkv_bias} and norms on queries={qk_norm}; "
        f"supported: {', '.join(FAMILIES)}"
    )
