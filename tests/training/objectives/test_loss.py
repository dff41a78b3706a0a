"""Trainings with several terms: under every layout, with a frozen second model, resumed, and with faulty objectives."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.pipeline import run_one, stage_named
from megatron_ipt.recipe import load_recipe
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.training.test_masked import write_rows
from tests.training.test_runs import FOUR_MICRO_BATCHES, PIPELINE, TENSOR, Jobs, losses

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).with_name("examples.py")
Z_LOSS = f"{REPOSITORY / 'examples/extensions/z_loss.py'}:ZLoss"
COMMON = (
    FOUR_MICRO_BATCHES, "steps=4", "model.init_method_std=0.1", "validation.eval_interval=4",
    "logging.tensorboard=false", "schedule.lr_decay_iters=4",
)  # fmt: skip
WITHOUT_LEARNING = ("steps=1", "optimizer.lr=0", "optimizer.min_lr=0", "schedule.lr_warmup_iters=0")
INTERLEAVED = "parallel.virtual_pipeline_model_parallel_size=2"


def terms(**settings: dict[str, Any]) -> str:
    return "objectives=" + json.dumps(settings)


def example(name: str, weight: float = 1.0, **options: object) -> dict[str, Any]:
    return {"objective": f"{EXAMPLES}:{name}", "weight": weight, "options": options}


def distilled(teacher: str) -> str:
    z_loss = {"objective": Z_LOSS, "weight": 1e-4}
    return terms(next_token={"weight": 0.5}, kl=example(teacher, 2.0), z=z_loss, sequences=example("SequenceMean", 0.1))


def records(directory: Path) -> list[dict[str, Any]]:
    return list(read_metrics(directory / "metrics.jsonl"))


@pytest.fixture(scope="module")
def one_rank(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("objectives")
    jobs = Jobs(root, tokens)
    jobs.add("base", *COMMON)
    jobs.add("reported", *COMMON, terms(next_token={}, z={"objective": Z_LOSS, "weight": 0}))
    jobs.add("distilled", *COMMON, distilled("Teacher"))
    jobs.add("distilled-ahead", *COMMON, distilled("PipelinedTeacher"))
    half = terms(next_token={}, kl=example("Teacher"), both=example("Both"))
    jobs.add("half", *COMMON, half, "precision=bf16")
    jobs.add("only-kl", *COMMON, terms(kl=example("Teacher")))
    base = root / "base/checkpoints/iter_0000004"
    jobs.add(
        "same-weights", *COMMON, *WITHOUT_LEARNING, f"initial_checkpoint={base}",
        terms(next_token={}, kl=example("Teacher", checkpoint=str(base))),
    )  # fmt: skip
    rotating = terms(next_token={"weight": 0}, rotating=example("Rotating"))
    jobs.add("rotating", *COMMON, rotating)
    jobs.add("rotating-begun", *COMMON, "steps=2", rotating)
    jobs.add("rotating-resumed", *COMMON, rotating, copy="rotating-begun")
    for fault in ("no tuple", "shape", "gradient", "metric", "nan"):
        jobs.add(f"faulty {fault}", *COMMON, terms(next_token={}, faulty=example("Faulty", fault=fault)))
    jobs.run(1)
    return lambda name: root / name


@pytest.fixture(scope="module")
def two_ranks(one_rank: Callable[[str], Path], tokens: Path) -> Callable[[str], Path]:
    jobs = Jobs(one_rank(""), tokens)
    jobs.add("tensor", *COMMON, TENSOR, distilled("Teacher"))
    jobs.add("tensor-sequence", *COMMON, TENSOR, "parallel.sequence_parallel=true", distilled("Teacher"))
    jobs.add("tensor-whole-teacher", *COMMON, TENSOR, distilled("WholeTeacher"))
    jobs.add("pipeline", *COMMON, PIPELINE, distilled("PipelinedTeacher"))
    jobs.add("pipeline-whole-teacher", *COMMON, PIPELINE, distilled("WholeTeacher"))
    jobs.add("interleaved", *COMMON, PIPELINE, INTERLEAVED, distilled("PipelinedTeacher"))
    jobs.add("data", *COMMON, "nproc=2", distilled("Teacher"))
    jobs.add("reported-tensor", *COMMON, TENSOR, terms(next_token={}, z={"objective": Z_LOSS, "weight": 0}))
    jobs.add("base-tensor", *COMMON, TENSOR)
    jobs.add("rotating-resumed-data", *COMMON, "nproc=2", terms(next_token={"weight": 0}, rotating=example("Rotating")),
             copy="rotating-begun")  # fmt: skip
    jobs.run(2)
    return one_rank


@pytest.mark.parametrize(
    "name",
    [
        "tensor", "tensor-sequence", "tensor-whole-teacher", "pipeline", "pipeline-whole-teacher", "interleaved",
        "data", "distilled-ahead",
    ],
)  # fmt: skip
def test_terms_and_a_second_model_are_the_same_under_every_layout(name: str, two_ranks: Callable[[str], Path]) -> None:
    one, other = records(two_ranks("distilled")), records(two_ranks(name))
    assert len(one) == len(other) == 5
    for first, second in zip(one, other):
        for key in first.keys() & {"loss", "grad_norm", "metrics", "valid"}:
            assert second[key] == pytest.approx(first[key], rel=2e-5), key
        for held_out, metrics in first.get("valid_metrics", {}).items():
            assert second["valid_metrics"][held_out] == pytest.approx(metrics, rel=2e-5)


def test_losses_of_terms_add_up_by_weight(one_rank: Callable[[str], Path]) -> None:
    for record in records(one_rank("distilled"))[:-1]:
        metrics = record["metrics"]
        assert metrics.keys() == {
            "next_token/loss", "kl/loss", "z/loss", "sequences/loss", "kl/teacher_entropy", "z/log_z",
        }  # fmt: skip
        parts = (0.5 * metrics["next_token/loss"], 2 * metrics["kl/loss"], 1e-4 * metrics["z/loss"])
        assert record["loss"] == pytest.approx(sum(parts) + 0.1 * metrics["sequences/loss"], rel=1e-12)


def test_validation_is_the_next_token_loss_and_the_metrics(one_rank: Callable[[str], Path]) -> None:
    last = records(one_rank("distilled"))[-1]
    assert last.keys() == {"step", "valid", "valid_metrics"}
    for name, metrics in last["valid_metrics"].items():
        assert last["valid"][name] == metrics["next_token/loss"]
    only_kl = records(one_rank("only-kl"))
    # One term: its loss is the loss, and validation shows it beside that of the next token.
    assert only_kl[0]["metrics"].keys() == {"kl/teacher_entropy"}
    assert only_kl[-1]["valid"]["raw"] > 1.2 * only_kl[-1]["valid_metrics"]["raw"]["kl/loss"]
    assert only_kl[-1]["valid_metrics"]["raw"].keys() == {"kl/loss", "kl/teacher_entropy"}
    assert only_kl[-2]["loss"] < only_kl[0]["loss"]
    assert "valid_metrics" not in records(one_rank("base"))[-1] and "metrics" not in records(one_rank("base"))[0]
    # Not a part of validation.
    half = records(one_rank("half"))[-1]["valid_metrics"]["raw"]
    assert half.keys() == {"next_token/loss", "kl/loss", "kl/teacher_entropy"}


@pytest.mark.parametrize(("name", "like"), [("reported", "base"), ("reported-tensor", "base-tensor")])
def test_reading_logits_does_not_change_a_bit_of_the_next_token_loss(
    name: str, like: str, two_ranks: Callable[[str], Path]
) -> None:
    plain, reported = records(two_ranks(like)), records(two_ranks(name))
    assert [record.get("loss") for record in plain] == [record.get("loss") for record in reported]
    assert [record.get("grad_norm") for record in plain] == [record.get("grad_norm") for record in reported]
    assert plain[-1]["valid"] == reported[-1]["valid"]
    assert all(record["metrics"]["z/loss"] > 0 for record in reported[:-1])


def test_logits_in_half_precision(one_rank: Callable[[str], Path]) -> None:
    half, full = records(one_rank("half")), records(one_rank("distilled"))
    assert half[0]["metrics"]["next_token/loss"] == pytest.approx(losses(one_rank("base"))[1], rel=1e-3)
    assert half[0]["metrics"]["kl/loss"] == pytest.approx(full[0]["metrics"]["kl/loss"], rel=0.02)
    assert half[-2]["loss"] < half[0]["loss"]


def test_a_model_with_the_teacher_s_weights_has_nothing_to_learn_from_it(one_rank: Callable[[str], Path]) -> None:
    first, last = records(one_rank("same-weights"))
    assert abs(first["metrics"]["kl/loss"]) < 1e-6
    assert abs(last["valid_metrics"]["raw"]["kl/loss"]) < 1e-6


def test_the_second_model_is_not_saved(one_rank: Callable[[str], Path]) -> None:
    from torch.distributed.checkpoint import FileSystemReader

    def tensors(name: str) -> dict[str, Any]:
        folder = one_rank(name) / "checkpoints/iter_0000004"
        saved = FileSystemReader(folder).read_metadata().state_dict_metadata
        return {key: getattr(value, "size", None) for key, value in saved.items()}

    assert tensors("distilled") == tensors("base")


@pytest.mark.parametrize("name", ["rotating-resumed", "rotating-resumed-data"])
def test_a_resumed_run_has_the_state_of_its_objectives(name: str, two_ranks: Callable[[str], Path]) -> None:
    whole, resumed = losses(two_ranks("rotating")), losses(two_ranks(name))
    shifts = [record["metrics"]["rotating/shift"] for record in records(two_ranks("rotating"))[:-1]]
    assert len(set(shifts)) > 2
    assert resumed == (pytest.approx(whole, rel=1e-5) if "data" in name else whole)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no tuple", "returned Tensor; expected a tuple of a sum and a dict of metrics"),
        ("shape", "returned a tensor of shape [2, 32] as the sum; expected a tensor with one number"),
        ("gradient", "returned a sum without gradients"),
        ("metric", "returned the metric 'extra', which is not declared; declared: none"),
    ],
)
def test_objectives_that_do_not_keep_to_the_interface(
    fault: str, message: str, one_rank: Callable[[str], Path]
) -> None:
    found = (one_rank(f"faulty {fault}") / "error.txt").read_text()
    assert found == f"StageError: training.objectives.faulty: loss() of Faulty {message}" + found.partition(message)[2]


def test_a_loss_that_is_not_a_number_is_traced_to_its_term(one_rank: Callable[[str], Path]) -> None:
    message = (one_rank("faulty nan") / "error.txt").read_text()
    assert "training: the loss is nan (faulty/loss is nan) at step 1." in message


def test_loss_and_gradient_are_those_of_whole_logits(tmp_path: Path) -> None:
    """On rows with very different numbers of tokens to predict, over three micro-batches."""
    train = write_rows(tmp_path, "train", 22, 1)
    description = {"vocab_size": 500, "bos_id": 1, "eod_id": 2, "pad_id": None, "train": [train], "valid": []}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.objectives.compare_terms", str(tmp_path)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == 5
    for name, differences in found.items():
        assert all(math.isfinite(value) and value < 2e-6 for value in differences.values()), (name, differences)


class NoRanks:
    """A launcher that trains nothing."""

    def launch(self, config: TrainingConfig, context: StageContext) -> dict[str, Any]:
        return {"steps": 1}


def test_a_changed_file_of_an_objective_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = {"stage": "tokens", "status": "complete", "inputs": [], "settings": {}, "counts": {}}
    (tmp_path / "run/tokens").mkdir(parents=True)
    (tmp_path / "run/tokens/manifest.json").write_text(json.dumps(manifest))
    shutil.copy(REPOSITORY / "examples/extensions/z_loss.py", tmp_path / "mine.py")
    objectives = terms(next_token={}, mine={"objective": "mine.py:ZLoss"})
    recipe = load_recipe(None, ["output_dir=run", "corpus.inputs=[unused]", f"training.{objectives}"])
    assert run_one(stage_named("training"), recipe, launcher=NoRanks())
    inputs = (read_manifest(tmp_path / "run/training") or {})["inputs"]
    assert [entry["path"] for entry in inputs if entry.get("code")] == ["mine.py"]
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n")
    assert not run_one(stage_named("training"), recipe, launcher=NoRanks())
    assert "input mine.py: changed" in caplog.text
