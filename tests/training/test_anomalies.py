from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.training.config import AnomalyConfig
from megatron_ipt.training.loop.anomalies import LossWatch
from megatron_ipt.training.loop.metrics import read_metrics
from megatron_ipt.training.loop.run_state import RunState

REPOSITORY = Path(__file__).parents[2]


def watched(losses: list[float], **settings: Any) -> tuple[LossWatch, RunState]:
    watch, state = LossWatch(AnomalyConfig(**settings)), RunState()
    for loss in losses:
        watch.accept(loss, state)
    return watch, state


def test_a_loss_that_is_no_number_gets_what_the_recipe_says() -> None:
    for action in ("stop", "skip", "rollback"):
        watch, state = watched([], non_finite=action)
        for loss in (math.nan, math.inf):
            anomaly = watch.judge(loss, state)
            assert anomaly is not None and (anomaly.kind, anomaly.action) == ("non_finite", action)
        assert watch.judge(2.0, state) is None
        assert watch.judge_gradient(math.nan, state) == watch.judge_gradient(math.nan, state) is not None


def test_a_jump_is_told_from_noise_by_median_deviations() -> None:
    # Median 2.0, median deviation 0.1: the limit is 2.0 + 8 * 0.1.
    watch, state = watched([1.9, 2.0, 2.1, 1.9, 2.0, 2.1, 2.0, 2.1], spike="skip", spike_window=8)
    assert watch.judge(2.75, state) is None
    anomaly = watch.judge(2.85, state)
    assert anomaly is not None and anomaly.found == "the loss is 2.8500, above 2.8000"


def test_one_outlier_does_not_move_the_limit() -> None:
    watch, state = watched([1.9, 2.0, 2.1, 1.9, 2.0, 2.1, 90.0, 2.1], spike="stop", spike_window=8)
    assert watch.judge(3.0, state) is not None


def test_no_jump_before_there_is_something_to_compare_with() -> None:
    watch, state = watched([2.0, 2.0, 2.0], spike="skip", spike_window=8)
    assert watch.judge(50.0, state) is None


def test_used_up_patience_stops() -> None:
    watch, state = watched([], non_finite="skip", limit=2)
    state.interventions = 2
    anomaly = watch.judge(math.nan, state)
    assert anomaly is not None and anomaly.action == "stop" and "limit=2 is reached" in anomaly.found


def test_a_jump_is_seen_as_soon_as_half_of_the_window_is_there() -> None:
    for count, judged in ((3, False), (4, True)):
        watch, state = watched([2.0] * count, spike="skip", spike_window=8)
        assert (watch.judge(50.0, state) is not None) is judged


def test_only_the_last_losses_count() -> None:
    # The high losses of the beginning would hide the jump.
    watch, state = watched([10.0] * 20 + [2.0] * 8, spike="skip", spike_window=8)
    assert state.losses == [2.0] * 8
    assert watch.judge(3.0, state) is not None


def test_losses_that_hardly_differ_leave_room_for_noise() -> None:
    # Median deviation 0: a thousandth of the median counts instead, whatever its sign.
    watch, state = watched([2.0] * 8, spike="skip", spike_window=8)
    assert watch.judge(2.015, state) is None
    assert watch.judge(2.017, state) is not None
    watch, state = watched([-2.0] * 8, spike="skip", spike_window=8)
    assert watch.judge(-1.985, state) is None
    assert watch.judge(-1.983, state) is not None


def test_a_loss_at_the_limit_is_no_jump() -> None:
    watch, state = watched([1.0, 2.0, 3.0, 4.0, 5.0], spike="skip", spike_window=8, spike_threshold=4.0)
    # Median 3, median deviation 1.
    assert watch.judge(7.0, state) is None
    assert watch.judge(7.0001, state) is not None


def test_jumps_are_not_looked_for_unless_asked() -> None:
    watch, state = watched([2.0] * 64, spike_window=8)
    assert state.losses == []
    state.losses = [2.0] * 8
    assert watch.judge(50.0, state) is None
    assert watch.judge_gradient(50.0, state) is None


def test_every_case_before_the_limit_is_handled_as_asked() -> None:
    watch, state = watched([], non_finite="rollback", limit=2)
    state.interventions = 1
    anomaly = watch.judge(math.nan, state)
    assert anomaly is not None and (anomaly.action, anomaly.found) == ("rollback", "the loss is nan")
    gradient = watch.judge_gradient(math.inf, state)
    assert gradient is not None and (gradient.kind, gradient.found) == ("non_finite", "the gradient norm is inf")
    # Stopping uses nothing up.
    watch, state = watched([], non_finite="stop", limit=0)
    anomaly = watch.judge(math.nan, state)
    assert anomaly is not None and anomaly.found == "the loss is nan"


def losses(directory: Path) -> dict[int, float | None]:
    return {record["step"]: record["loss"] for record in read_metrics(directory / "metrics.jsonl") if "loss" in record}


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
    root = tmp_path_factory.mktemp("wrong")
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.wrong_losses", str(root), str(tokens)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return root


@pytest.mark.slow
def test_a_skipped_step_counts_and_changes_nothing_before_it(runs: Path) -> None:
    skipped, ignored = losses(runs / "skip"), losses(runs / "spike-ignored")
    assert list(skipped) == list(range(1, 21)) and skipped[13] is None
    assert [skipped[step] for step in range(1, 13)] == [ignored[step] for step in range(1, 13)]
    assert [(event["step"], event["event"]) for event in events(runs / "skip")] == [(13, "skip")]


@pytest.mark.slow
def test_a_roll_back_leaves_out_the_data_up_to_the_wrong_batch(runs: Path) -> None:
    (event,) = events(runs / "rollback")
    assert (event["step"], event["event"], event["to_step"]) == (13, "rollback", 10)
    rolled, ignored = losses(runs / "rollback"), losses(runs / "spike-ignored")
    assert list(rolled) == list(range(1, 21))
    assert [rolled[step] for step in range(1, 11)] == [ignored[step] for step in range(1, 11)]
    assert rolled[11] != ignored[11]
    model = json.loads((runs / "rollback/checkpoints/iter_0000020/model.json").read_text())
    # Three batches were left out: those of steps 11 and 12, and the wrong one.
    assert model["consumed_train_samples"] == (20 + 3) * 8 and model["consumed_tokens"] == 20 * 8 * 32


@pytest.mark.slow
def test_a_jump_is_skipped(runs: Path) -> None:
    assert [event["step"] for event in events(runs / "spike-skip")] == [13]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stop", "the loss is nan at step 13. The last checkpoint is intact"),
        ("rollback-without-checkpoint", "at step 13, and there is no checkpoint to roll back to"),
    ],
)
def test_stopping_says_where(name: str, message: str, runs: Path) -> None:
    assert message in (runs / name / "error.txt").read_text()
