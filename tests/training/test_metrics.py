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
