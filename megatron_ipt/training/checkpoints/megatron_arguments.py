"""The arguments that Megatron-LM reads from a checkpoint, for checkpoints of a run and of a conversion.

Needs neither torch nor Megatron-Core. Epsilon and rope scaling are there for other readers: Megatron-LM does not take
them from a checkpoint, its user must pass them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from megatron_ipt.models.families import FAMILIES, ModelShape


def megatron_arguments(
    shape: ModelShape, seq_length: int, vocab_size: int, padded_vocab_size: int, **more: Any
) -> Namespace:
    """What Megatron-LM's ``--use-checkpoint-args`` reads, and what a reader of a checkpoint needs besides.

    Args:
        more: arguments that tell how the checkpoint came about.
    """
    family = FAMILIES[shape.family]
    # A family may set functions too, which Megatron-LM has no argument for and a safe loader would not load.
    own = {name: value for name, value in family.options(shape).items() if isinstance(value, (bool, int, float, str))}
    arguments = Namespace(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        seq_length=seq_length,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        group_query_attention=shape.num_query_groups != shape.num_attention_heads,
        kv_channels=shape.kv_channels,
        max_position_embeddings=shape.max_position_embeddings,
        position_embedding_type="rope",
        add_position_embedding=True,
        use_rotary_position_embeddings=True,
        rotary_base=int(shape.rotary_base),
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=shape.rope_scaling_factor is not None,
        rope_scaling_factor=shape.rope_scaling_factor or 8.0,
        add_bias_linear=False,
        add_qkv_bias=family.add_qkv_bias,
        qk_layernorm=family.qk_layernorm,
        squared_relu=False,
        swiglu=family.gated_linear_unit,
        untie_embeddings_and_output_weights=shape.untie_embeddings_and_output_weights,
        apply_layernorm_1p=False,
        normalization=family.normalization,
        norm_epsilon=shape.norm_epsilon,
        layernorm_epsilon=shape.norm_epsilon,
        init_method_std=shape.init_method_std,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        num_experts=shape.num_moe_experts,
        moe_ffn_hidden_size=shape.ffn_hidden_size if shape.num_moe_experts else None,
        moe_router_topk=shape.moe_router_topk,
        moe_router_pre_softmax=False,
        vocab_size=vocab_size,
        padded_vocab_size=padded_vocab_size,
        ckpt_format="torch_dist",
        consumed_valid_samples=0,
    )
    vars(arguments).update(own, **more)
    return arguments
