"""What the stage reports to ``status`` and to the pre-flight check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from megatron_ipt.files import write_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.models.config import ModelConfig
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import DataConfig, TrainingConfig
from megatron_ipt.training.progress import needs, progress


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext("training", tmp_path / "training", 0, {TOKENS: tmp_path / "tokens"})


def config(**settings: Any) -> TrainingConfig:
    settings = {"steps": 100, "global_batch_size": 2, "model": ModelConfig(preset="tiny"), **settings}
    return TrainingConfig(data=DataConfig(seq_length=50), **settings)


def log(context: StageContext, *records: dict[str, Any]) -> None:
    context.directory.mkdir(parents=True, exist_ok=True)
    (context.directory / "metrics.jsonl").write_bytes(
        b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
    )


def step(number: int, loss: float | None = 2.5, speed: float = 1000.0) -> dict[str, Any]:
    return {"step": number, "loss": loss, "tokens": 100 * number, "tokens_per_second": speed}


def test_nothing_is_reported_before_the_first_step(context: StageContext) -> None:
    assert progress(config(), context) is None
    log(context, {"step": 0, "valid": {"raw": 3.0}})
    assert progress(config(), context) is None


def test_steps_tokens_loss_speed_and_time_left(context: StageContext) -> None:
    # 80 steps of 100 tokens are left, at the harmonic mean of 1000 and 3000 tokens/s.
    log(context, step(19, speed=1000.0), step(20, loss=2.25, speed=3000.0), {"step": 20, "valid": {"raw": 3.0}})
    found = progress(config(), context)
    assert found is not None
    assert found.facts == ("step 20 of 100", "2,000 tokens", "loss 2.2500", "1,500 tokens/s")
    assert found.seconds_left == pytest.approx(80 * 100 / 1500)
    assert found.figures["steps"] == 100


def test_a_skipped_step_has_no_loss(context: StageContext) -> None:
    log(context, step(1, loss=None))
    found = progress(config(), context)
    assert found is not None and found.facts == ("step 1 of 100", "100 tokens", "1,000 tokens/s")
    log(context, step(1), step(2, loss=None))
    found = progress(config(), context)
    assert found is not None and "loss 2.5000" in found.facts and found.figures["step"] == 2


def test_the_length_is_that_of_the_run_that_was_started(context: StageContext) -> None:
    log(context, step(1))
    write_json(context.directory / "manifest.json", {"settings": {"steps": None, "tokens": 1001}})
    found = progress(config(), context)
    assert found is not None and found.facts[0] == "step 1 of 11"
    write_json(context.directory / "manifest.json", {"settings": {"steps": None, "tokens": None, "epochs": 2}})
    found = progress(config(), context)
    assert found is not None and (found.facts[0], found.seconds_left) == ("step 1", None)


def test_a_node_needs_the_dataset_and_room_for_two_checkpoints(context: StageContext) -> None:
    dataset = context.inputs[TOKENS] / "dataset.json"
    assert (needs(config(), context).files, needs(config(), context).free_gb) == ((dataset,), 0.0)
    taught = config()
    taught.distillation.teacher.path = "models/teacher"
    assert needs(taught, context).files == (dataset, Path("models/teacher"))
    write_json(dataset, {"vocab_size": 1000})
    parameters = ModelConfig(preset="tiny").shape().parameters(1024)
    assert needs(config(), context).free_gb == pytest.approx(2 * 14 * parameters / 1e9)
