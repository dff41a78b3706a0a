"""A taxonomy of three disciplines, a model that answers everything, and the stage that asks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from tests.synthesis.from_taxonomy.teacher import SEED, TAXONOMY
from tests.synthesis.scripted import write_chat_tokenizer


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tmp_path_factory.mktemp("chat-tokenizer"))


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext("taxonomy", tmp_path / "taxonomy", SEED)


def settings_of(file: Path, tokenizer: Path, **overrides: Any) -> TaxonomyConfig:
    settings = {
        "file": file,
        "engine": "tests.synthesis.from_taxonomy.teacher:TeacherEngine",
        "generation.model": tokenizer,
        "lists_per_discipline": 2,
        "questions_per_subject": 5,
        "near_duplicates": "null",
        "valid_share": 0,
    } | {name.replace("__", "."): value for name, value in overrides.items()}
    return load(TaxonomyConfig, None, [f"{name}={value}" for name, value in settings.items()])


@pytest.fixture
def configure(chat_tokenizer: Path, tmp_path: Path) -> Callable[..., TaxonomyConfig]:
    """The section ``taxonomy`` from overrides: two lists a discipline, five questions a subject."""
    file = tmp_path / "crafts.yaml"
    file.write_text(TAXONOMY)
    return lambda **overrides: settings_of(file, chat_tokenizer, **overrides)
