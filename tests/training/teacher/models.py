"""Small teachers as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY = 500
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip


def write_teachers(folder: Path) -> dict[str, Path]:
    """A Llama with an output layer of its own, and a Qwen2 that shares it with its embedding, which is padded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    made = {}
    kinds: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=False)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES | {"vocab_size": 523}, tie_word_embeddings=True)),
    }
    for name, make in kinds.items():
        torch.manual_seed(3)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                # Biases and norms that differ, and probabilities that are far from uniform.
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(made.setdefault(name, folder / name))
    return made


def read_teacher(folder: Path) -> Any:
    """The model again, where torch is patched: from_pretrained would leave its rotation undefined there."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    return model.eval()
