"""Distillation in bf16 on a GPU. Skipped where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.training.loop.metrics import read_metrics
from tests.training.conftest import VOCABULARY
from tests.training.teacher.test_source import write_tokenizer

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = [pytest.mark.gpu, pytest.mark.slow]

Train = Callable[..., tuple[Path, dict[str, Any]]]
RUN = ("model.hidden_size=128", "model.ffn_hidden_size=256", "data.seq_length=64", "precision=bf16")


@pytest.fixture(scope="module")
def teacher(train: Train, tokens: Path) -> Path:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    write_tokenizer(tokens / "tokenizer", {f"word {number}": number for number in range(VOCABULARY)})
    return train(*RUN, "steps=12")[0]


@pytest.mark.parametrize("objective", ["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"])
def test_a_student_comes_closer_to_its_teacher(objective: str, teacher: Path, train: Train, tokens: Path) -> None:
    settings = {"path": teacher / "checkpoints", "tokenizer": tokens / "tokenizer"}
    overrides = [f"distillation.teacher.{name}={value}" for name, value in settings.items()]
    directory, counts = train(*RUN, "model.num_layers=2", "steps=12", f"distillation.objective={objective}", *overrides)
    assert counts["precision"] == "bf16"
    first, *_, last = [each["metrics"] for each in read_metrics(directory / "metrics.jsonl") if "loss" in each]
    assert all(math.isfinite(value) for value in last.values())
    assert last["distillation/forward_kl"] < first["distillation/forward_kl"]
    assert 0 <= last["distillation/loss"] < first["distillation/loss"]
