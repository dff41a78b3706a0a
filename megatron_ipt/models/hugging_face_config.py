"""``config.json`` and ``generation_config.json`` of an exported model.

Written so that transformers 4 and 5, vLLM and TensorRT-LLM read the same: rotary settings under their older keys, which
all of them know, and the type of the weights under both its names.
"""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.convert.dtypes import type_name
from megatron_ipt.convert.hugging_face.tokenizer_files import TokenIds
from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.weight_names import FAMILIES


def hugging_face_config(shape: ModelShape, vocab_size: int, tokens: TokenIds, dtype: torch.dtype) -> dict[str, Any]:
    """``config.json`` of a model."""
    names = FAMILIES[shape.family]
    config: dict[str, Any] = {
        "architectures": [names.architecture],
        "model_type": names.model_type,
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.kv_channels,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_position_embeddings,
        "initializer_range": shape.init_method_std,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rotary_base,
        "rope_scaling": _rope_scaling(shape),
        "attention_dropout": 0.0,
        "tie_word_embeddings": not shape.untie_embeddings_and_output_weights,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eod,
        "pad_token_id": tokens.pad,
        "use_cache": True,
        "dtype": type_name(dtype),
        "torch_dtype": type_name(dtype),
        **dict(names.config),
    }
    if shape.num_moe_experts:
        config |= {"num_local_experts": shape.num_moe_experts, "num_experts_per_tok": shape.moe_router_topk}
    return config


def generation_config(tokens: TokenIds) -> dict[str, Any]:
    """Greedy decoding that ends at the end-of-document token."""
    ids = {"bos_token_id": tokens.bos, "eos_token_id": tokens.eod, "pad_token_id": tokens.pad}
    return {"do_sample": False} | {name: value for name, value in ids.items() if value is not None}


def _rope_scaling(shape: ModelShape) -> dict[str, Any] | None:
    if shape.rope_scaling_factor is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": shape.rope_scaling_factor,
        "low_freq_factor": shape.rope_low_freq_factor,
        "high_freq_factor": shape.rope_high_freq_factor,
        "original_max_position_embeddings": shape.rope_original_max_position_embeddings,
    }
