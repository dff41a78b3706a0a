"""The batch scripts on their own: Slurm's commands and megatron-ipt are mocks that write down how they are called."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "slurm/stage.sbatch"
MOCKS = {
    # Options of srun come before the command.
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'echo "$@" >>"$CALLS/scontrol"',
    # Slurm signals the tasks of the job's steps.
    "scancel": 'echo "$@" >>"$CALLS/scancel"; kill -TERM "$(<"$CALLS/pid")"',
    "sleep": 'echo "$@" >>"$CALLS/sleep"',
    "megatron-ipt": """
        trap 'kill $!; exit 143' TERM
        echo $$ >"$CALLS/pid"
        printf '%s\\n' "$VIRTUAL_ENV" "$@" >"$CALLS/megatron-ipt"
        [[ -z ${SLOW:-} ]] || { /bin/sleep 600 & wait $!; }
        exit ${STATUS:-0}
    """,
}


class Job:
    """One job that runs ``stage.sbatch``."""

    def __init__(self, folder: Path):
        self.calls = folder / "calls"
        self.exits = folder / "exits"
        programs = folder / "bin"
        for made in (self.calls, self.exits, programs):
            made.mkdir()
        for name, body in MOCKS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (programs / name).chmod(0o755)
        for name in ("data", "engine", "merge"):
            activate = folder / name / "bin/activate"
            activate.parent.mkdir(parents=True)
            activate.write_text(f"export VIRTUAL_ENV={name}\n")
        self.site = folder / "site.env"
        self.site.write_text(f"VENV={folder}/data\nSYNTHESIS_VENV={folder}/engine\nMERGE_VENV={folder}/merge\n")
        self._environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_CPUS_PER_TASK": "5",
            "MEGATRON_IPT_SLURM": str(SCRIPT.parent),
            "MEGATRON_IPT_EXITS": str(self.exits),
        }

    def start(self, stage: str = "synthesis", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), stage, str(self.site), "recipe.yaml", "seed=1"],
            env={**self._environment, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, stage: str = "synthesis", **environment: str) -> list[str]:
        """What megatron-ipt is called with, its virtual environment first."""
        process = self.start(stage, **environment)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return (self.calls / "megatron-ipt").read_text().split()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2"}


def test_without_an_array_the_whole_stage_runs(job):
    assert job.run() == ["engine", "synthesis", "recipe.yaml", "seed=1"]
    assert (job.exits / "7").read_text() == "0\n"
    assert job.run("corpus") == ["data", "corpus", "recipe.yaml", "seed=1"]


def test_a_task_does_its_share_of_all_shares_on_its_cores(job):
    # Two tasks of a stage that is divided into eight shares: the others are done.
    exported = {"MEGATRON_IPT_SHARES": "8", "MEGATRON_IPT_CORES": "synthesis.workers"}
    assert job.run(**ARRAY, **exported)[1:] == [
        "synthesis", "recipe.yaml", "seed=1", "--shard", "3/8", "synthesis.workers=5",
    ]  # fmt: skip
    assert (job.exits / "7_3").read_text() == "0\n"
    # By hand: as many shares as tasks.
    assert job.run(**ARRAY)[-2:] == ["--shard", "3/2"]
    # A step of a stage.
    assert job.run(**ARRAY, MEGATRON_IPT_UNTIL="vectors")[-4:] == ["--shard", "3/2", "--until", "vectors"]


def test_a_stage_is_completed_with_the_software_of_merge(job):
    assert job.run(MEGATRON_IPT_SOFTWARE="merge") == ["merge", "synthesis", "recipe.yaml", "seed=1"]


def test_a_failure_is_the_status_of_the_job(job):
    process = job.start(STATUS="3")
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert (job.exits / "7").read_text() == "3\n"
    assert not (job.calls / "scontrol").exists()


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, as Linux knows it."""
    status = Path(f"/proc/{process}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux whether the script is ready")
def test_near_the_time_limit_a_task_is_requeued(job):
    process = job.start(SLOW="1", **ARRAY)
    while not ((job.calls / "megatron-ipt").exists() and catches(process.pid, signal.SIGUSR1)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert (job.calls / "scancel").read_text() == "--signal=TERM 7_3\n"
    assert (job.calls / "scontrol").read_text() == "requeue 7_3\n"
    assert "synthesis: time limit near, finished units are kept; requeued" in output
    assert process.returncode == 128 + signal.SIGTERM, output
    # It waits for the requeue instead of ending, which could count as completion.
    assert (job.calls / "sleep").read_text() == "120\n"
