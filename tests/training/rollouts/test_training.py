"""Trainings on the student's own responses: MiniLLM, DPKD and GKD, under several layouts, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.training.loop.metrics import read_metrics
from megatron_ipt.tuning.rows import RowWriter
from tests.conftest import REPOSITORY
from tests.training.conftest import documents
from tests.training.test_runs import PIPELINE, TENSOR, Jobs

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

SEQUENCE = 32
COMMON = (
    f"data.seq_length={SEQUENCE}", "model.num_layers=2", "model.init_method_std=0.1", "validation.eval_interval=6",
    "logging.tensorboard=false", "micro_batch_size=2", "global_batch_size=4", "schedule.lr_decay_iters=6",
    "schedule.lr_warmup_iters=0", "checkpoint.save_interval=3", "steps=6", "optimizer.lr=0.002",
)  # fmt: skip
ROUNDS = {"rollouts": 8, "inner_epochs": 2, "max_new_tokens": 12, "generation_batch_size": 3}
"""Two steps an epoch, four a round: step 4 resumes within an epoch, step 5 begins a round."""


def write_rows(folder: Path, rows: int, seed: int) -> Path:
    """A prompt and a response of a random walk in each row; a few rows hold two."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {split: write_split(folder, split, number, seed) for split, number in (("train", rows), ("valid", 5))}
    description = {"vocab_size": 500, "bos_id": 1, "eod_id": 2, "pad_id": None}
    (folder / "dataset.json").write_text(json.dumps(description | {name: [entry] for name, entry in entries.items()}))
    return folder


def write_split(folder: Path, name: str, rows: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    texts = iter(documents(3 * rows, seed))
    with RowWriter(folder / name, np.uint16) as writer:
        for row in range(rows):
            ids: list[int] = []
            mask: list[int] = []
            lengths = []
            for _ in range(2 if row % 4 == 0 else 1):
                prompt, response = int(generator.integers(2, 9)), int(generator.integers(2, 7))
                text = next(texts)[: prompt + response - 1]
                ids += [*text, 2]
                mask += [0] * prompt + [1] * response
                lengths.append(len(text) + 1)
            writer.add(np.array(ids), np.array(mask), np.array(lengths, np.int32))
    return {"name": name, "prefix": name, "loss_mask": f"{name}-loss-mask", "seq_length": SEQUENCE, "weight": 1.0,
            "documents": rows, "tokens": writer.tokens, "loss_tokens": writer.loss_tokens}  # fmt: skip


def distillation(teacher: Path, objective: str, own: dict[str, Any], **others: Any) -> str:
    section = {"teacher": {"path": str(teacher)}, "objective": objective, "on_policy": own} | others
    return "distillation=" + json.dumps(section)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("prompts") / "tuning", 24, 3)


@pytest.fixture(scope="module")
def root(rows: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one rank."""
    root = tmp_path_factory.mktemp("on-policy")
    jobs = Jobs(root, rows)
    jobs.add("teacher", *COMMON, "steps=3", "model.num_layers=4", tokens=tokens)
    teacher = root / "teacher/checkpoints"
    for name, settings in settings_of(teacher, rows).items():
        jobs.add(name, *COMMON, settings)
        # As if it had been killed after its first checkpoint.
        jobs.add(f"{name}-resumed", *COMMON, settings, copy=name, tracker="3")
    jobs.add("no-prompts", *COMMON, settings_of(teacher, rows)["gkd"], tokens=tokens)
    jobs.run(1)
    return root


@pytest.fixture(scope="module")
def two_ranks(root: Path, rows: Path) -> Path:
    jobs = Jobs(root, rows)
    teacher = root / "teacher/checkpoints"
    whole, pipelined = settings_of(teacher, rows), settings_of(teacher, rows, pipeline_model_parallel_size=2)
    sequence = "parallel.sequence_parallel=true"
    divided = settings_of(teacher, rows, tensor_model_parallel_size=2)
    jobs.add("minillm-tensor", *COMMON, TENSOR, sequence, divided["minillm"])
    jobs.add("dpkd-tensor", *COMMON, TENSOR, whole["dpkd"])
    jobs.add("released-data", *COMMON, "nproc=2", whole["released"])
    jobs.add("minillm-data-resumed", *COMMON, "nproc=2", whole["minillm"], copy="minillm", tracker="3")
    jobs.add("dpkd-pipeline", *COMMON, PIPELINE, pipelined["dpkd"])
    jobs.add("gkd-pipeline", *COMMON, PIPELINE, whole["gkd"])
    overlapped = ("parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")
    jobs.add("gkd-data", *COMMON, "nproc=2", *overlapped, whole["gkd"])
    jobs.run(2)
    return root


def settings_of(teacher: Path, rows: Path, **layout: Any) -> dict[str, str]:
    def section(objective: str, own: dict[str, Any], **others: Any) -> str:
        return distillation(teacher, objective, own, **others).replace(
            '"teacher": {', '"teacher": {' + "".join(f'"{key}": {value}, ' for key, value in layout.items())
        )

    return {
        "minillm": section("minillm", ROUNDS, alpha=0.5, minillm={"teacher_share": 0.3}),
        "released": section("minillm", ROUNDS | {"batch_size": 8}, minillm={"form": "released"}),
        "dpkd": section("dpkd", ROUNDS | {"rollouts": 4}),
        "gkd": section("jsd", {"fraction": 0.6, "max_new_tokens": 12, "temperature": 0.9}),
    }


def records(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


@pytest.mark.parametrize(
    "name",
    [
        "minillm-tensor",
        "dpkd-tensor",
        "released-data",
        "minillm-data-resumed",
        "dpkd-pipeline",
        "gkd-pipeline",
        "gkd-data",
    ],
)  # fmt: skip
def test_the_layout_does_not_matter(name: str, two_ranks: Path) -> None:
    one, other = records(two_ranks / name.partition("-")[0]), records(two_ranks / name)
    assert len(one) == len(other) == 6
    for first, second in zip(one, other):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-3, abs=1e-5)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)
        for key in first["metrics"].keys() - {"distillation/rollout_seconds", "distillation/teacher_seconds"}:
            assert second["metrics"][key] == pytest.approx(first["metrics"][key], rel=1e-3, abs=1e-5), key


NAMES = ("minillm", "released", "dpkd", "gkd")


@pytest.mark.parametrize("name", NAMES)
def test_validation_compares_the_models_on_the_data(name: str, root: Path) -> None:
    last = list(read_metrics(root / name / "metrics.jsonl"))[-1]["valid_metrics"]["valid"]
    compared = {"forward_kl", "reverse_kl", "student_entropy", "teacher_entropy", "top1_agreement", "teacher_loss"}
    names = {f"distillation/{metric}" for metric in compared | {"loss", "teacher_seconds"}}
    # Nothing of what is only drawn in training.
    assert last.keys() == names | {"next_token/loss"}
    if name != "gkd":
        assert last["distillation/loss"] == pytest.approx(last["distillation/reverse_kl"])
    assert 0 < last["distillation/forward_kl"] < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same_to_the_last_bit(name: str, root: Path) -> None:
    whole, resumed = records(root / name), records(root / f"{name}-resumed")
    assert len(whole) == len(resumed) == 6
    for one, other in zip(whole, resumed):
        for record in (one, other):
            record["metrics"] = {key: value for key, value in record["metrics"].items() if "seconds" not in key}
        assert [one[key] for key in ("loss", "grad_norm", "metrics")] == [
            other[key] for key in ("loss", "grad_norm", "metrics")
        ]
    assert len({record["loss"] for record in whole}) == 6


def test_loss_and_gradient_are_those_of_loops_over_the_tokens(root: Path, rows: Path) -> None:
    """MiniLLM in four forms and DPKD, on responses that were drawn in the step; with the loss of the data, too."""
    teacher = root / "teacher/checkpoints/iter_0000003"
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.rollouts.compare_step", str(rows), str(teacher)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {"paper", "exact", "released", "alone", "dpkd"}
    for name, differences in found.items():
        assert all(abs(value) < 5e-6 for value in differences.values()), (name, differences)


def test_text_without_prompts_is_refused(root: Path) -> None:
    message = (root / "no-prompts/error.txt").read_text()
    assert "on_policy.fraction" in message and "has no rows with a loss mask" in message
