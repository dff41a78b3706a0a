"""Tokenizers and small data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.inference.tokenizer import PromptTokenizer, open_prompt_tokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.tuning.config import TuningConfig
from tests.synthesis.conftest import write_tokenizer


@pytest.fixture(scope="session")
def mistral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral's SentencePiece tokenizer, which mistral-common brings."""
    mistral_common = pytest.importorskip("mistral_common")
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

    model = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
    folder = tmp_path_factory.mktemp("mistral")
    SentencePieceTokenizer.read(model).save(folder)
    return folder


@pytest.fixture(scope="session")
def mistral(mistral_folder: Path) -> PromptTokenizer:
    return open_prompt_tokenizer(mistral_folder)


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of up to 600 pieces, with BOS 1 and EOS 2."""
    return write_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="session")
def bytes_tokenizer(byte_folder: Path) -> PromptTokenizer:
    return open_prompt_tokenizer(byte_folder)


@pytest.fixture
def configure(byte_folder: Path) -> Callable[..., TuningConfig]:
    """Builds the section from overrides, with the byte-level tokenizer and nothing held out."""

    def build(*overrides: str) -> TuningConfig:
        settings = ["tokenizer.kind=huggingface", f"tokenizer.path={byte_folder}", "seq_length=256", "valid_share=0"]
        return load(TuningConfig, None, [*settings, *overrides])

    return build


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext("tuning", tmp_path / "tuning", 7)


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def task_records(count: int) -> list[dict[str, Any]]:
    """Texts of one sentence with one to three tasks, each text with words of its own."""
    return [
        {
            "context": f"House {number} has {number + 2} rooms, and Ann{number} lives there with a cat.",
            "tasks": [
                {"question": f"Who lives in house {number}?", "answer": f"Ann{number}"},
                {"question": "Which animal is there?", "answer": "a cat", "options": ["a dog", "a cat"]},
                {"question": "How many rooms?", "answer": f"{number + 2}", "reasoning": "The text says so."},
            ][: 1 + number % 3],
        }
        for number in range(count)
    ]
