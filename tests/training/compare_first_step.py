"""Prints, for every family, how far first-step loss and logits are from those of transformers with the same weights."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.checkpoint_model import CheckpointModel
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.loop.stop import StopRequest
from megatron_ipt.training.ranks import layout

RUN = ("model.preset=tiny", "model.num_layers=3", "data.seq_length=64", "steps=1", "global_batch_size=4",
       "micro_batch_size=2", "model.init_method_std=0.1", "logging.tensorboard=false")  # fmt: skip
OWN = {
    "llama": ("model.rope_scaling_factor=8", "model.rope_original_max_position_embeddings=16", "model.rotary_base=500"),
    "qwen2": ("model.untie_embeddings_and_output_weights=false", "model.norm_epsilon=1e-6"),
    "qwen3": ("model.kv_channels=24", "model.untie_embeddings_and_output_weights=false"),
    "mixtral": ("model.num_moe_experts=4",),
}


def hugging_face_weights(state: dict[str, torch.Tensor], shape: ModelShape) -> dict[str, torch.Tensor]:
    """Megatron's tensors under transformers' names, written out here apart from the converter's own table."""
    heads, groups, channels = shape.num_attention_heads, shape.num_query_groups, shape.kv_channels
    sizes = [heads // groups * channels, channels, channels]
    weights = {
        "model.embed_tokens.weight": state["embedding.word_embeddings.weight"],
        "model.norm.weight": state["decoder.final_layernorm.weight"],
        "lm_head.weight": state.get("output_layer.weight", state["embedding.word_embeddings.weight"]),
    }
    for layer in range(shape.num_layers):
        ours, theirs = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        attention = ours + "self_attention."
        for kind in ("weight", "bias"):
            if f"{attention}linear_qkv.{kind}" in state:
                fused = state[f"{attention}linear_qkv.{kind}"]
                for name, part in zip("qkv", fused.unflatten(0, (groups, -1)).split(sizes, dim=1)):
                    weights[f"{theirs}self_attn.{name}_proj.{kind}"] = part.flatten(0, 1)
        weights[theirs + "self_attn.o_proj.weight"] = state[attention + "linear_proj.weight"]
        for name in "qk":
            if f"{attention}{name}_layernorm.weight" in state:
                weights[f"{theirs}self_attn.{name}_norm.weight"] = state[f"{attention}{name}_layernorm.weight"]
        if shape.num_moe_experts:
            weights[theirs + "mlp.gate.weight"] = state[ours + "mlp.router.weight"]
            for name, there in (("linear_fc1", "gate_up_proj"), ("linear_fc2", "down_proj")):
                experts = [
                    state[f"{ours}mlp.experts.local_experts.{expert}.{name}.weight"]
                    for expert in range(shape.num_moe_experts)
                ]
                weights[f"{theirs}mlp.experts.{there}"] = torch.stack(experts)
        else:
            gate, up = state[ours + "mlp.linear_fc1.weight"].chunk(2)
            weights[theirs + "mlp.gate_proj.weight"], weights[theirs + "mlp.up_proj.weight"] = gate, up
            weights[theirs + "mlp.down_proj.weight"] = state[ours + "mlp.linear_fc2.weight"]
        weights[theirs + "input_layernorm.weight"] = state[ours + "input_layernorm.weight"]
        weights[theirs + "post_attention_layernorm.weight"] = state[ours + "pre_mlp_layernorm.weight"]
    return weights


def hugging_face_model(shape: ModelShape, vocabulary: int, weights: dict[str, torch.Tensor]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if shape.rope_scaling_factor:
        rope |= {
            "rope_type": "llama3", "factor": shape.rope_scaling_factor, "low_freq_factor": shape.rope_low_freq_factor,
            "high_freq_factor": shape.rope_high_freq_factor,
            "original_max_position_embeddings": shape.rope_original_max_position_embeddings,
        }  # fmt: skip
    own = {"num_local_experts": shape.num_moe_experts} if shape.num_moe_experts else {}
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        head_dim=shape.kv_channels,
        max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters=rope,
        sliding_window=None,
        tie_word_embeddings=not shape.untie_embeddings_and_output_weights,
        **own,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(weights)
    return model


def compare(family: str, tokens: Path) -> dict[str, float]:
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer

    config = load(TrainingConfig, None, [*RUN, f"model.family={family}", *OWN.get(family, ())])
    layout.start_model_parallel(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, StageContext("training", Path(folder), 17, {TOKENS: tokens}), StopRequest())
        trainer._build_data()
        module = trainer.modules[0]
        state = {name: tensor.clone() for name, tensor in module.state_dict().items() if torch.is_tensor(tensor)}
        batches = list(trainer.train_batches.at(0, 2))
        with torch.no_grad():
            ours = torch.cat([module(batch["tokens"], None, None) for batch in batches])
        trainer.run()
        with torch.no_grad():
            trained = module(batches[0]["tokens"], None, None)
        parallel_state.destroy_model_parallel()
        with CheckpointModel(Path(folder) / "checkpoints/iter_0000001") as loaded:
            reloaded = loaded.logits(batches[0]["tokens"])
    model = hugging_face_model(trainer.shape, trainer.padded_vocab_size, hugging_face_weights(state, trainer.shape))
    real = trainer.vocab_size
    with torch.no_grad():
        theirs = torch.cat([model(batch["tokens"]).logits for batch in batches])[..., :real]
    labels = torch.cat([batch["labels"] for batch in batches])
    loss = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), labels.flatten())
    return {
        "loss": abs(trainer.loss - float(loss)),
        "logits": float((ours[..., :real] - theirs).abs().max()),
        "spread": float(theirs.std()),
        "reloaded": float((trained[..., :real] - reloaded).abs().max()),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    print(json.dumps({family: compare(family, Path(sys.argv[1])) for family in FAMILIES}))
