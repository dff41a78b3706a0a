"""Trainings beside a teacher: gradients under many layouts, resumed, and with a teacher that has nothing to teach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.training.loop.metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.training.teacher.models import write_teachers
from tests.training.test_masked import write_rows
from tests.training.test_runs import FOUR_MICRO_BATCHES, Jobs

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

TENSOR, PIPELINE, CONTEXT = (
    f"parallel.{kind}_parallel_size=" for kind in ("tensor_model", "pipeline_model", "context")
)
OWN_TENSOR, OWN_PIPELINE = (f"distillation.teacher.{kind}_model_parallel_size=" for kind in ("tensor", "pipeline"))
LAYOUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tensor, sequence and data, teacher in stages": (
        "llama", (TENSOR + "2", "parallel.sequence_parallel=true", OWN_PIPELINE + "2"),
    ),
    "interleaved stages and data, teacher tensor parallel": (
        "qwen2",
        (
            PIPELINE + "2", "parallel.virtual_pipeline_model_parallel_size=2", "model.num_layers=4", OWN_TENSOR + "2",
            "distillation.objective=jsd", "distillation.alpha=0.3",
        ),
    ),
    "tensor and stages, teacher whole": (
        "qwen2", (TENSOR + "2", PIPELINE + "2", "distillation.objective=skew_reverse_kl", "distillation.alpha=0.5"),
    ),
    "data, one teacher in stages and tensor parallel for all": (
        "qwen2", (OWN_TENSOR + "2", OWN_PIPELINE + "2", "distillation.objective=reverse_kl"),
    ),
    "tensor and context, teacher in stages": ("llama", (TENSOR + "2", CONTEXT + "2", OWN_PIPELINE + "2")),
    "tensor, teacher in stages": ("qwen2", (TENSOR + "4", OWN_PIPELINE + "4", "distillation.temperature=2")),
}  # fmt: skip


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("teachers")
    # Rows with very different numbers of tokens to predict.
    description = {"vocab_size": 500, "bos_id": 1, "eod_id": 2, "pad_id": None, "valid": []}
    (folder / "dataset.json").write_text(json.dumps(description | {"train": [write_rows(folder, "train", 22, 1)]}))
    teachers = write_teachers(folder)
    jobs = [
        {"name": name, "teacher": str(teachers[teacher]), "overrides": overrides, "tokens": str(folder)}
        for name, (teacher, overrides) in LAYOUTS.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    program = ["-m", "tests.training.teacher.compare_gradients", str(folder / "jobs.json"), str(folder / "found.json")]
    result = subprocess.run(
        [*command, *program],
        env=dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo"), cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_those_of_the_dense_formula(name: str, differences: dict[str, dict[str, float]]) -> None:
    """The teacher's logits are those of transformers, the formula has no parallelism and no padding."""
    found = differences[name]
    assert found.keys() >= {"gradient", "next_token/loss", "distillation/loss", "distillation/reverse_kl"}
    assert all(difference < 1e-6 for difference in found.values()), found


@pytest.fixture(scope="module")
def runs(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("distillation")
    jobs = Jobs(root, tokens)
    common = (
        FOUR_MICRO_BATCHES, "model.num_layers=2", "model.init_method_std=0.1", "logging.tensorboard=false",
        "schedule.lr_decay_iters=4", "validation.eval_interval=4",
    )  # fmt: skip
    teacher = f"distillation.teacher.path={root / 'teacher/checkpoints'}"
    jobs.add("teacher", *common, "steps=2")
    jobs.add("distilled", *common, "steps=4", teacher, "distillation.alpha=0.5", "model.hidden_size=32")
    jobs.add("begun", *common, "steps=2", teacher, "distillation.alpha=0.5", "model.hidden_size=32")
    jobs.add("resumed", *common, "steps=4", teacher, "distillation.alpha=0.5", "model.hidden_size=32", copy="begun")
    still = ("steps=1", "optimizer.lr=0", "optimizer.min_lr=0", "schedule.lr_warmup_iters=0")
    jobs.add("same", *common, *still, teacher, f"initial_checkpoint={root / 'teacher/checkpoints'}")
    jobs.run(1)
    return lambda name: list(read_metrics(root / name / "metrics.jsonl"))


def figures(records: list[dict[str, Any]], of_validation: bool) -> list[Any]:
    kept = ("valid", "valid_metrics") if of_validation else ("loss", "grad_norm", "metrics")
    picked = [[record[name] for name in kept] for record in records if kept[0] in record]
    text = json.dumps(picked, sort_keys=True)
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if "seconds" not in k})  # type: ignore[no-any-return]


def test_a_resumed_distillation_is_the_same_bit_by_bit(runs: Callable[[str], list[dict[str, Any]]]) -> None:
    whole, resumed = runs("distilled"), runs("resumed")
    assert [record["step"] for record in whole if "loss" in record] == [1, 2, 3, 4]
    # The run that was stopped after two steps has validated then, too.
    assert figures(whole, False) == figures(resumed, False)
    assert figures(whole, True)[-1] == figures(resumed, True)[-1]


def test_the_loss_is_both_terms_by_weight(runs: Callable[[str], list[dict[str, Any]]]) -> None:
    for record in runs("distilled"):
        if "loss" in record:
            metrics = record["metrics"]
            both = metrics["next_token/loss"] + metrics["distillation/loss"]
            assert record["loss"] == pytest.approx(0.5 * both, rel=1e-6)
            assert metrics["distillation/loss"] == metrics["distillation/forward_kl"] > 0
            assert metrics["distillation/reverse_kl"] > 0 and metrics["distillation/teacher_seconds"] > 0


def test_the_teacher_is_judged_on_held_out_data(runs: Callable[[str], list[dict[str, Any]]]) -> None:
    """Its next-token loss is what its own training has logged."""
    of_teacher, of_student = runs("teacher")[-1], runs("distilled")[-1]
    for name, loss in of_teacher["valid"].items():
        assert of_student["valid_metrics"][name]["distillation/teacher_loss"] == pytest.approx(loss, abs=1e-6)


def test_a_student_with_the_teacher_s_weights_has_nothing_to_learn(
    runs: Callable[[str], list[dict[str, Any]]],
) -> None:
    (first, *_) = runs("same")
    metrics = first["metrics"]
    assert metrics["distillation/top1_agreement"] == 1
    assert max(abs(metrics[f"distillation/{name}"]) for name in ("loss", "forward_kl", "reverse_kl")) < 1e-6
    assert metrics["distillation/student_entropy"] == pytest.approx(metrics["distillation/teacher_entropy"], abs=1e-6)
    assert first["loss"] == pytest.approx(0, abs=1e-6) and first["grad_norm"] < 1e-5
