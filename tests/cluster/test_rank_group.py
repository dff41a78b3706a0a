"""The launcher of a cluster, with a program that reports as ranks do in the place of srun."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ipt.cluster.watch.rank_group import LeaseLost, RankGroup
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.stop import Checkpointed

BEGIN = """
import os, signal, sys, time
from pathlib import Path
from megatron_ipt.errors import InputError
from megatron_ipt.training.loop.stop import Checkpointed
from megatron_ipt.training.ranks.job import Job
from megatron_ipt.training.ranks.reports import RankReports
job = Job.read(Path(os.environ["MEGATRON_IPT_JOB"]))
reports = RankReports(job.report)
"""
TRACEBACK = "(reports.folder / 'rank-{}.traceback').write_text('{}')\n"


@pytest.fixture
def make_group(tmp_path: Path) -> Callable[..., RankGroup]:
    def make(program: str, reason: str = "", stall_seconds: float = 60) -> RankGroup:
        return RankGroup([sys.executable, "-c", BEGIN + program], tmp_path / "reports", lambda: reason, stall_seconds)

    return make


def launch(group: RankGroup, tmp_path: Path) -> dict:
    context = StageContext("training", tmp_path / "training", seed=1)
    context.directory.mkdir()
    return group.launch(TrainingConfig(steps=7), context)


def test_counts_come_back(make_group, tmp_path):
    assert launch(make_group("reports.write_counts({'steps': job.config.steps})"), tmp_path) == {"steps": 7}


def test_a_shutdown_that_fails_does_not_undo_the_run(make_group, tmp_path):
    assert launch(make_group("reports.write_counts({'steps': 7}); sys.exit(3)"), tmp_path) == {"steps": 7}


@pytest.mark.parametrize(
    ("program", "kind", "message"),
    [
        ("reports.write_error(1, InputError('a.bin: is damaged')); sys.exit(3)", InputError, "^a.bin: is damaged$"),
        ("reports.write_error(0, Checkpointed('saved')); sys.exit(75)", Checkpointed, "^saved$"),
        (
            TRACEBACK.format(0, "RuntimeError: Connection closed by peer")
            + "time.sleep(0.01)\n"
            + TRACEBACK.format(1, "ValueError: wrong")
            + "sys.exit(1)",
            StageError,
            r"^training: rank-1 failed:\nValueError: wrong$",
        ),
        (TRACEBACK.format(0, "RuntimeError: Timed out"), StageError, "a collective operation timed out: "),
        ("sys.exit(9)", StageError, "the ranks exited with status 9 without an error message"),
    ],
    ids=["user's error", "checkpointed", "first failure", "timeout", "nothing"],
)
def test_the_error_that_is_raised(program, kind, message, make_group, tmp_path):
    with pytest.raises(kind, match=message):
        launch(make_group(program), tmp_path)


def test_asking_to_stop_signals_the_first_rank(make_group, tmp_path):
    group = make_group(
        "def stop(*_):\n"
        "    reports.write_error(0, Checkpointed('stopped as asked'))\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "reports.pid_file(0).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )

    def ask() -> None:
        while not (tmp_path / "reports/rank-0.pid").exists():
            time.sleep(0.01)
        group.ask_to_stop()

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Checkpointed, match=r"^stopped as asked$"):
        launch(group, tmp_path)
    thread.join()


def test_a_lost_lease_ends_the_ranks(make_group, tmp_path):
    group = make_group("time.sleep(60)", reason="job 8 holds the lease")
    with pytest.raises(LeaseLost, match="job 8 holds the lease; this copy has stopped without saving"):
        launch(group, tmp_path)


def test_a_hang_is_an_error_that_names_the_rank(make_group, tmp_path):
    state = {
        "rank": 0,
        "node": "n1",
        "beat": 1,
        "still": 100.0,
        "collective": "all_reduce",
        "place": "trainer.py:9 step",
    }
    program = f"(reports.folder / 'rank-0.state.json').write_text({json.dumps(json.dumps(state))})\ntime.sleep(60)\n"
    with pytest.raises(StageError, match=r"no step for 1 s and no rank moves: .* in all_reduce at trainer.py:9 step"):
        launch(make_group(program, stall_seconds=1), tmp_path)
