"""Random models of transformers in fp64, in which nothing is rounded to fp32 on the way."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": 256, "initializer_range": 0.35,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=6, rope_theta=500.0)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=3, tie_word_embeddings=True)),
}


class _Norm(nn.Module):
    """transformers' own goes through fp32."""

    def __init__(self, weight: torch.Tensor, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(weight.double()), epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden / (hidden.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


def small_model(family: str, attention: str = "sdpa", seed: int = 0):
    kind, config = FAMILIES[family]
    torch.manual_seed(seed)
    config._attn_implementation = attention
    model = kind._from_config(config, attn_implementation=attention, dtype=torch.float64).eval()
    assert model.config._attn_implementation == attention
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                # Not all ones, so that no norm is skipped without notice.
                weight = 1 + 0.2 * torch.randn_like(child.weight)
                setattr(module, name, _Norm(weight, child.variance_epsilon))
    return model.double()


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
