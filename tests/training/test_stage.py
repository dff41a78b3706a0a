"""Training runs through the stage, each a real launch of ranks; runs are shared between tests where they can be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_ipt.errors import CHECKPOINTED_STATUS, InputError
from megatron_ipt.training.loop.metrics import read_metrics

from .conftest import context, settings, write_tokens

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

Train = Callable[..., tuple[Path, dict[str, Any]]]
LONG_RUN = ("steps=60", "checkpoint.save_interval=7", "model.num_layers=2", "micro_batch_size=4")
"""Long enough to be met at work; its end is far when it is."""
TRACKER = "checkpoints/latest_checkpointed_iteration.txt"


def steps(directory: Path) -> dict[int, tuple[float, float, float]]:
    return {
        record["step"]: (record["loss"], record["lr"], record["grad_norm"])
        for record in read_metrics(directory / "metrics.jsonl")
        if "loss" in record
    }


def validations(directory: Path) -> dict[int, dict[str, float]]:
    return {
        record["step"]: record["valid"] for record in read_metrics(directory / "metrics.jsonl") if "valid" in record
    }


@pytest.fixture(scope="module")
def single(train: Train) -> tuple[Path, dict[str, Any]]:
    return train("steps=12", "nproc=2")


def test_a_run_leaves_what_later_stages_need(single: tuple[Path, dict[str, Any]]) -> None:
    directory, counts = single
    assert counts["steps"] == 12
    assert counts["tokens"] == 12 * 8 * 32
    assert counts["final_loss"] == steps(directory)[12][0]
    assert set(counts["valid"]) == {"raw", "augmented"}
    assert sorted(steps(directory)) == list(range(1, 13))
    assert sorted(validations(directory)) == [5, 10, 12]
    assert (directory / TRACKER).read_text() == "12"
    names = {path.name for path in (directory / "checkpoints/iter_0000012").iterdir()}
    assert {".metadata", "metadata.json", "common.pt", "model.json"} < names
    model = json.loads((directory / "checkpoints/iter_0000012/model.json").read_text())
    assert (model["vocab_size"], model["padded_vocab_size"], model["consumed_train_samples"]) == (500, 512, 96)
    assert list((directory / "tensorboard").iterdir())


def test_loss_starts_at_that_of_a_uniform_guess_and_falls(single: tuple[Path, dict[str, Any]]) -> None:
    losses = steps(single[0])
    assert losses[1][0] == pytest.approx(6.2146, abs=0.05)  # ln 500
    assert losses[12][0] < losses[1][0] - 0.3


PROGRAM = """
import sys
from pathlib import Path
from megatron_ipt.config import load
from megatron_ipt.errors import UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.stage import run
directory, tokens, *overrides = sys.argv[1:]
try:
    run(load(TrainingConfig, None, overrides), StageContext("training", Path(directory), 17, {TOKENS: Path(tokens)}))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def start(directory: Path, tokens: Path, *overrides: str) -> subprocess.Popen[str]:
    from .conftest import SMALL_RUN

    arguments = [sys.executable, "-c", PROGRAM, str(directory), str(tokens), *SMALL_RUN, *overrides]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def wait_for_step(directory: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while max(steps(directory), default=0) < step:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_all_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@pytest.fixture(scope="module")
def long_run(train: Train) -> Path:
    return train(*LONG_RUN)[0]


@pytest.fixture
def running(tokens: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    process = start(tmp_path, tokens, *LONG_RUN)
    wait_for_step(tmp_path, 16, process)
    yield tmp_path, process
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stderr:
        process.stderr.close()


def test_killed_and_resumed_equals_never_interrupted(
    train: Train, long_run: Path, running: tuple[Path, subprocess.Popen[str]]
) -> None:
    directory, process = running
    for child in descendants(process):
        # The process that writes a checkpoint may end by itself.
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    assert process.wait(30) != 0
    # That of step 14 may still have been on its way.
    assert 7 <= int((directory / TRACKER).read_text()) < 60
    train(*LONG_RUN, directory=directory)
    assert steps(directory) == steps(long_run)
    assert validations(directory) == validations(long_run)


def test_stage_that_is_killed_takes_its_ranks_along(running: tuple[Path, subprocess.Popen[str]]) -> None:
    _, process = running
    children = descendants(process)
    process.kill()
    process.wait()
    assert_all_end(children)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_saves_and_says_so(number: signal.Signals, running: tuple[Path, subprocess.Popen[str]]) -> None:
    directory, process = running
    children = descendants(process)
    os.kill(process.pid, number)
    _, message = process.communicate(timeout=30)
    assert_all_end(children)
    last = max(steps(directory))
    assert 16 <= last < 60
    assert int((directory / TRACKER).read_text()) == last
    if number is signal.SIGUSR1:
        assert process.returncode == CHECKPOINTED_STATUS
        assert f"stopped as asked at step {last} of 60" in message
    else:
        assert "KeyboardInterrupt" in message


def test_errors_of_ranks_come_back_as_their_message(train: Train, tmp_path: Path) -> None:
    from megatron_ipt.training.stage import run

    short = write_tokens(tmp_path / "tokens", [[[1, 5, 2]]], {})
    with pytest.raises(InputError, match="3 tokens, fewer than one sequence"):
        run(settings("steps=2", "parallel.tensor_model_parallel_size=2"), context(tmp_path / "training", short))


def test_a_rank_that_dies_ends_all_at_once(tokens: Path, tmp_path: Path) -> None:
    process = start(tmp_path, tokens, "steps=2000", "nproc=2")
    wait_for_step(tmp_path, 3, process)
    children = descendants(process)
    ranks = [child for child in children if "megatron_ipt.training.ranks.worker" in " ".join(child.cmdline())[-200:]]
    died = time.monotonic()
    ranks[-1].send_signal(signal.SIGKILL)
    _, message = process.communicate(timeout=30)
    assert time.monotonic() - died < 10
    assert process.returncode != 0
    assert "one of 2 ranks exited without an error message" in message
    assert_all_end(children)
