"""A random model, small enough to check by hand, and the fixtures of the room that uses the engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.settings import EngineSettings
from tests.synthesis.conftest import (  # noqa: F401
    configure,
    context,
    model_folder,
    tokenizer,
    tokenizer_folder,
    write_tokenizer,
)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a context of 256, whose attention matters; with its tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_tokenizer(tmp_path_factory.mktemp("random"))
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def engine_settings(tokenizer_folder: Path) -> Callable[..., EngineSettings]:  # noqa: F811
    """Settings of an engine as a section ``score`` would hold them."""

    def build(engine: str, own: Any = None, scoring: bool = True, **generation: Any) -> EngineSettings:
        values = {"model": str(tokenizer_folder), "context_length": 256, "max_new_tokens": 32, "window": 8} | generation
        return EngineSettings(engine, GenerationConfig(**values), own, prefix="score", scoring=scoring)

    return build
