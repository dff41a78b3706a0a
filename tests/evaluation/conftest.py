"""A tiny model as a Hugging Face folder, with a tokenizer that knows a few words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TASKS = Path(__file__).parents[2] / "examples" / "tasks"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import train_sentencepiece

    folder = tmp_path_factory.mktemp("tiny")
    lines = [line for path in sorted(TASKS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    texts = [f"{record['question']} {' '.join(record['options'])}" for record in map(json.loads, lines)]
    train_sentencepiece(iter(texts), 400).save(folder)
    torch.manual_seed(1)
    config = transformers.MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, sliding_window=None, max_position_embeddings=512,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(folder)
    return folder
