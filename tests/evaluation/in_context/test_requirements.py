"""Models that are refused, and memory: planned, limited, and as it turns out."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.requirements import GIB, plan_memory, refuse_model

SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192,
)  # fmt: skip


def model(config, attention="sdpa"):
    config._attn_implementation = attention
    return SimpleNamespace(config=config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(), "a sliding window of 4096 tokens"),
        (Gemma2Config(), "layers of kind sliding_attention"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=3), "layers of kind sliding_attention"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "rope dynamic"),
    ],
)
def test_models_whose_tokens_do_not_see_all_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        refuse_model(model(config))


def test_models_with_full_attention_are_taken():
    for config in (MistralConfig(sliding_window=None), Qwen2Config(), LlamaConfig()):
        refuse_model(model(config))
        refuse_model(model(config, "eager"))
        with pytest.raises(InputError, match="attention flash_attention_2, which takes no mask"):
            refuse_model(model(config, "flash_attention_2"))


def test_keys_and_values_are_those_of_the_facts():
    """Llama-3-8B: 131 kB a token in bf16."""
    llama = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256
    )
    memory = plan_memory(llama, 2, 100_000 - 512, 100)
    assert memory.queries == 512 and memory.keys_and_values == 100_000 * 131072


def test_a_limit_makes_passes_smaller_until_it_cannot():
    free = plan_memory(SMOLLM2, 4, 40_000, 60)
    limit = 0.9 * free.total / GIB
    limited = plan_memory(SMOLLM2, 4, 40_000, 60, limit_gib=limit)
    assert limited.queries < free.queries and limited.total <= limit * GIB
    with pytest.raises(InputError, match=r"40000 tokens of demonstrations take .* above in_context.memory_gib of 1;"):
        plan_memory(SMOLLM2, 4, 40_000, 60, limit_gib=1)


CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from megatron_ipt.evaluation.in_context.answers import Asked, score_options
from megatron_ipt.evaluation.in_context.context import Context
from megatron_ipt.evaluation.in_context.requirements import plan_memory
config = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=6, head_dim=256,
    num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=4096)
model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
def peak():
    # Not ru_maxrss: a new process begins with that of its parent.
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
groups = [[1] * 500 for _ in range(8)]
# Libraries and their threads take their part before it is counted.
score_options(Context(model, groups[:1], 64), [Asked([5] * 50, [[6], [7]])], 64, "warm")
before = peak()
memory = plan_memory(config, 4, 4000, 60, 500)
score_options(Context(model, groups, memory.queries), [Asked([5] * 58, [[6], [7]])] * 8, memory.queries, "test")
print(memory.total, peak() - before)
"""


@pytest.mark.slow
def test_memory_is_as_planned():
    """What a process grows by, which is mostly keys and values here."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    planned, grown = map(int, done.stdout.split())
    assert 0.6 * planned < grown < 1.25 * planned, (planned, grown)
