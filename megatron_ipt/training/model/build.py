"""Builds Megatron-Core's GPTModel from a :class:`~megatron_ipt.models.families.ModelShape`.

Initial weights only depend on the seed and each parameter's global name: the full tensor is drawn from its own
generator, and each rank keeps its slice. Every parallel layout therefore starts from the same model; the cost is that
each tensor-parallel rank draws the full tensors, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.pipeline_parallel.utils import (
    is_pp_first_stage,
    is_pp_last_stage,
    is_vp_first_stage,
    is_vp_last_stage,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.seeding import derive
from megatron_ipt.training.config import ParallelConfig, TrainingConfig
from megatron_ipt.training.cpu.fused import stand_in_for_cross_entropy, stand_in_for_fused_activation
from megatron_ipt.training.cpu.linear import stand_in_for_linear
from megatron_ipt.training.model.attention import TorchAttention, TorchRMSNorm
from megatron_ipt.training.model.precision import fp8_options, have_transformer_engine
from megatron_ipt.training.model.rotary import scale_frequencies, stand_in_for_fused_rotation

_SCALED_BY_DEPTH = ("linear_proj.weight", "linear_fc2.weight")
"""Weights that write to the residual stream: their initial deviation is divided by sqrt(2 * layers) (GPT-2)."""


def transformer_config(shape: ModelShape, config: TrainingConfig, precision: str) -> TransformerConfig:
    """Megatron-Core's configuration of ``shape`` in ``precision`` (fp32, bf16 or fp8)."""
    family, parallel = FAMILIES[shape.family], config.parallel
    on_gpu = torch.cuda.is_available()
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    options = dict(family.options(shape))
    if not on_gpu:
        stand_in_for_fused_rotation()
        stand_in_for_fused_activation()
        stand_in_for_cross_entropy()
        stand_in_for_linear()
    if precision == "fp8":
        options |= fp8_options(config.fp8)
    if shape.num_moe_experts:
        options |= _expert_options(shape, config)
    if config.recompute.granularity == "selective":
        options |= {"recompute_granularity": "selective", "recompute_modules": list(config.recompute.modules)}
    elif config.recompute.granularity == "full":
        options |= {
            "recompute_granularity": "full",
            "recompute_method": config.recompute.method,
            "recompute_num_layers": config.recompute.num_layers,
        }
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.kv_channels,
        normalization=family.normalization,
        layernorm_epsilon=shape.norm_epsilon,
        gated_linear_unit=family.gated_linear_unit,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=family.add_qkv_bias,
        qk_layernorm=family.qk_layernorm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        pipeline_dtype=dtype,
        calculate_per_token_loss=True,
        # The weights are set by `initialize`; Megatron-Core's own calls only mark what is tensor parallel.
        init_method=_leave,
        output_layer_init_method=_leave,
        embedding_init_method=_leave,
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu or not shape.num_moe_experts,
        bias_dropout_fusion=on_gpu,
        apply_rope_fusion=have_transformer_engine() if on_gpu else True,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        cross_entropy_loss_fusion=False,
        # Gloo may still be reading an output that is being sent; CUDA streams order sending before freeing.
        deallocate_pipeline_outputs=on_gpu,
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        **options,
    )


def _expert_options(shape: ModelShape, config: TrainingConfig) -> dict[str, Any]:
    """Mixtral's routing: the k best experts, weighted by a softmax over their k scores; no token is dropped."""
    return {
        "num_moe_experts": shape.num_moe_experts,
        "moe_ffn_hidden_size": shape.ffn_hidden_size,
        "moe_router_topk": shape.moe_router_topk,
        "moe_router_load_balancing_type": "aux_loss" if config.model.moe_aux_loss_coeff else "none",
        "moe_aux_loss_coeff": config.model.moe_aux_loss_coeff,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": use_transformer_engine(),
    }


def use_transformer_engine() -> bool:
    """Whether layers are built from Transformer Engine's modules."""
    return torch.cuda.is_available() and have_transformer_engine()


def build_model(
    shape: ModelShape,
    vocab_size: int,
    padded_vocab_size: int,
    config: TransformerConfig,
    seed: int | None,
    attention: str = "auto",
    groups: ProcessGroupCollection | None = None,
) -> list[GPTModel]:
    """This rank's chunks of the model (one, or one per virtual pipeline stage), initialized from ``seed``.

    Args:
        seed: of the initial weights; None leaves them undefined, for a model that is about to be loaded.
        attention: kernel, as in ``model.attention`` of the recipe.
        groups: process groups of a second model with its own layout, which ``config`` describes; by default those of
            the run.
    """
    virtual_size = config.virtual_pipeline_model_parallel_size
    groups = groups or ProcessGroupCollection.use_mpu_process_groups()
    chunks = []
    for index in range(virtual_size or 1):
        stage = index if virtual_size else None
        chunk = GPTModel(
            config,
            _block_spec(shape, config, stage, attention, groups.pp.rank()),
            vocab_size=padded_vocab_size,
            max_sequence_length=shape.max_position_embeddings,
            pre_process=is_pp_first_stage(groups.pp) and is_vp_first_stage(stage, virtual_size),
            post_process=is_pp_last_stage(groups.pp) and is_vp_last_stage(stage, virtual_size),
            position_embedding_type="rope",
            rotary_base=shape.rotary_base,
            share_embeddings_and_output_weights=not shape.untie_embeddings_and_output_weights,
            vp_stage=stage,
            pg_collection=groups,
        )
        chunk.to(torch.cuda.current_device())
        scale_frequencies(chunk.rotary_pos_emb, shape)
        if seed is not None:
            initialize(chunk, shape, seed)
        if chunk.post_process:
            _forbid_padding(chunk, vocab_size, padded_vocab_size, groups.tp)
        chunks.append(chunk)
    return chunks


def wrap_for_training(
    chunks: list[GPTModel], config: TransformerConfig, parallel: ParallelConfig, fp8_param: bool = False
) -> list[DistributedDataParallel]:
    """The chunks with gradient buffers and data-parallel reduction; gradients are accumulated in fp32."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        fp8_param_gather=fp8_param,
    )
    modules = [Float16Module(config, chunk) if config.bf16 else chunk for chunk in chunks]
    return [
        DistributedDataParallel(config, settings, module, disable_bucketing=index > 0)
        for index, module in enumerate(modules)
    ]


@contextmanager
def whole_parameters(chunks: list[DistributedDataParallel]) -> Iterator[None]:
    """Gathers the parameters that an overlapped distributed optimizer would only gather in the next forward pass: until
    then a rank only has the updated values of its own share."""
    overlapped = [chunk for chunk in chunks if chunk.ddp_config.overlap_param_gather]
    for chunk in overlapped:
        chunk.disable_forward_pre_hook()
    try:
        yield
    finally:
        for chunk in overlapped:
            chunk.enable_forward_pre_hook()


@torch.no_grad()
def initialize(chunk: GPTModel, shape: ModelShape, seed: int) -> None:
    """Fills ``chunk``: weights normal with ``init_method_std``, less on residual outputs; norms 1, biases 0."""
    state = chunk.sharded_state_dict()
    apply_factories(state)
    for shard in nested_values(state):
        if not isinstance(shard, ShardedTensor) or shard.data is None:
            continue
        layer = shard.global_offset[: shard.prepend_axis_num]
        if shard.key.endswith("norm.weight") or shard.key.endswith("layer_norm_weight"):
            shard.data.fill_(1.0)
        elif shard.key.endswith("bias"):
            shard.data.zero_()
        else:
            depth = 2 * shape.num_layers if shard.key.endswith(_SCALED_BY_DEPTH) else 1
            generator = torch.Generator(device=shard.data.device)
            generator.manual_seed(derive(seed, "initial weights", shard.key, *layer) >> 1)
            full = torch.empty(shard.global_shape[shard.prepend_axis_num :], device=shard.data.device)
            full.normal_(0.0, shape.init_method_std / depth**0.5, generator=generator)
            offsets = shard.global_offset[shard.prepend_axis_num :]
            window = tuple(slice(start, start + size) for start, size in zip(offsets, shard.data.shape))
            shard.data.copy_(full[window])


def _leave(weight: torch.Tensor) -> torch.Tensor:
    return weight


def _block_spec(
    shape: ModelShape, config: TransformerConfig, stage: int | None, attention: str, pipeline_rank: int
) -> Any:
    family, experts = FAMILIES[shape.family], shape.num_moe_experts
    if use_transformer_engine():
        layer = get_gpt_layer_with_transformer_engine_spec(
            num_experts=experts, moe_grouped_gemm=bool(experts), qk_layernorm=family.qk_layernorm
        )
        if attention == "torch":
            layer.submodules.self_attention.submodules.core_attention = TorchAttention
        return layer
    layer = get_gpt_layer_local_spec(
        num_experts=experts, normalization=family.normalization, qk_layernorm=family.qk_layernorm
    )
    layer.submodules.input_layernorm = TorchRMSNorm
    layer.submodules.pre_mlp_layernorm = TorchRMSNorm
    if experts:
        # Transformer Engine only fuses this norm with a dense block; the name in checkpoints must be the same.
        del layer.submodules.sharded_state_dict_keys_map["pre_mlp_layernorm."]
    parts = layer.submodules.self_attention.submodules
    parts.core_attention = TorchAttention
    if family.qk_layernorm:
        parts.q_layernorm = parts.k_layernorm = TorchRMSNorm
    layers = [layer] * get_num_layers_to_build(config, stage, pipeline_rank)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=TorchRMSNorm)


def _forbid_padding(chunk: GPTModel, vocab_size: int, padded_vocab_size: int, tensor_parallel: Any) -> None:
    """Sets the logits of padded vocabulary entries to minus infinity, so losses do not depend on the padding."""
    local = padded_vocab_size // tensor_parallel.size()
    first_padding = max(0, vocab_size - local * tensor_parallel.rank())
    if first_padding >= local:
        return

    def forbid(_: torch.nn.Module, __: Any, output: tuple[torch.Tensor, Any]) -> None:
        # Detached: softmax gives these columns a gradient of exactly 0, as the linear layer requires.
        output[0].detach()[..., first_padding:].fill_(float("-inf"))

    chunk.output_layer.register_forward_hook(forbid)
