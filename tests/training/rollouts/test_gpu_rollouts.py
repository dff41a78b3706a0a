"""Drawn responses on a GPU: Transformer Engine attention with a cache, and objectives in bf16. Skipped without one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.loop.metrics import read_metrics
from tests.training.conftest import settings
from tests.training.scoring.conftest import models  # noqa: F401

from .test_training import ROUNDS, write_rows
from .texts import END, POSITIONS, prompts

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(autouse=True)
def needs_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")


def test_greedy_texts_are_those_of_transformers(models: Callable[..., tuple[Path, Path]]) -> None:  # noqa: F811
    import torch
    import transformers

    from megatron_ipt.training.checkpoint_model import CheckpointModel

    folder, checkpoint = models("llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).cuda().eval()
    with CheckpointModel(checkpoint) as model:
        found = model.generate(prompts(), 20, (END,))
    for prompt, text in zip(prompts(), found):
        ids = torch.tensor([prompt], device="cuda")
        new = min(20, POSITIONS - len(prompt))
        whole = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=END
        )
        assert text == [token for token in whole[0, len(prompt) :].tolist() if token != END]


@pytest.mark.parametrize(
    "section",
    [
        {"objective": "minillm", "on_policy": ROUNDS},
        {"objective": "minillm", "on_policy": ROUNDS, "minillm": {"form": "released"}},
        {"objective": "dpkd", "on_policy": ROUNDS},
        {"objective": "dpkd", "dpkd": {"form": "token"}},
        {"objective": "jsd", "on_policy": {"fraction": 0.5, "max_new_tokens": 12}},
    ],
    ids=["paper", "released", "dpkd", "tokens", "gkd"],
)
def test_objectives_train_in_bf16(section: dict[str, Any], tokens: Path, tmp_path: Path) -> None:
    from megatron_ipt.training.stage import run

    common = ("precision=bf16", "data.seq_length=32", "micro_batch_size=2", "global_batch_size=4", "model.num_layers=2")
    rows = write_rows(tmp_path / "rows", 24, 3)
    run(settings(*common, "steps=3"), StageContext("training", tmp_path / "teacher", seed=17, inputs={TOKENS: tokens}))
    teacher = {"teacher": {"path": str(tmp_path / "teacher/checkpoints")}}
    student = settings(*common, "steps=6", f"distillation={json.dumps(teacher | section)}")
    run(student, StageContext("training", tmp_path / "student", seed=18, inputs={TOKENS: rows}))
    records = [record for record in read_metrics(tmp_path / "student/metrics.jsonl") if "loss" in record]
    assert len(records) == 6
    assert all(math.isfinite(record["loss"]) and record["grad_norm"] > 0 for record in records)
    if section["objective"] == "minillm":
        # Weights of the first step: only rounding and the mixture are away from 1.
        assert records[0]["metrics"]["distillation/importance"] == pytest.approx(1, abs=0.2)
