from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.training.loop.metrics import Metrics, cut_after, read_metrics


def test_resuming_cuts_the_steps_that_are_repeated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1,"loss":3.0}\n{"step":2,"valid":{"raw":2.0}}\n{"step":3,"loss":1.0}\n{"step":4,"lo')
    cut_after(path, 2)
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_lines_are_there_while_the_run_goes_on(tmp_path: Path) -> None:
    with Metrics(tmp_path, first_step=0, steps=2, tensorboard=False) as metrics:
        metrics.log_step({"step": 1, "loss": 2.5})
        metrics.log_validation(1, {"raw": 2.25})
        records = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert records == [{"step": 1, "loss": 2.5}, {"step": 1, "valid": {"raw": 2.25}}]


def test_metrics_of_objectives_are_written_and_charted(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = {"kl/loss": 0.5, "kl/entropy": 2.0}
    with Metrics(tmp_path, first_step=0, steps=1, tensorboard=True) as writer:
        writer.log_step({"step": 1, "loss": 2.5, "metrics": metrics})
        writer.log_validation(1, {"raw": 2.25}, {"raw": {"kl/loss": 0.75}})
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == [
        {"step": 1, "loss": 2.5, "metrics": metrics},
        {"step": 1, "valid": {"raw": 2.25}, "valid_metrics": {"raw": {"kl/loss": 0.75}}},
    ]
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    charted = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert charted == {
        "train/loss": 2.5, "train/metrics/kl/loss": 0.5, "train/metrics/kl/entropy": 2.0, "valid/raw": 2.25,
        "valid/raw/kl/loss": 0.75,
    }  # fmt: skip


def test_no_file_means_no_lines(tmp_path: Path) -> None:
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == []


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        with Metrics(tmp_path, step - 1, 2, tensorboard=False, wandb_project="x", settings={"steps": 2}) as metrics:
            metrics.log_step({"step": step, "loss": 2.5, "tokens_by_source": {"raw": 8}})
    (name,) = {path.stem.removeprefix("run-") for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert name == (tmp_path / "wandb-id.txt").read_text()
