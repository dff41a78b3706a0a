"""Slurm's commands. Everything is read from their output; nothing of Slurm is imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_ipt.errors import StageError

ACTIVE = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING"}
"""States of jobs that wait or run."""
OF_ONE_JOB = ("MEGATRON_IPT_SHARES", "MEGATRON_IPT_CORES", "MEGATRON_IPT_SOFTWARE", "MEGATRON_IPT_UNTIL")
"""Variables of our own that the scripts get from ``submit`` and that no other job must inherit."""
_SECONDS = 60.0
_SECONDS_FOR_PING = 10.0


@dataclass(frozen=True)
class JobState:
    """State of a job or of one task of an array.

    Attributes:
        id: ``12`` or ``12_3``.
        state: as Slurm calls it.
        exit: exit status, once it has ended.
        restarts: how often it was requeued.
        nodes: Slurm's list.
        reason: why it waits, or failed.
    """

    id: str
    state: str
    exit: str = ""
    restarts: int = 0
    nodes: str = ""
    reason: str = ""


def is_available() -> bool:
    """Whether Slurm's commands are installed and its controller answers."""
    return shutil.which("sbatch") is not None and call(["scontrol", "ping"], _SECONDS_FOR_PING).returncode == 0


def call(command: Sequence[str], seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """Runs one of Slurm's commands without the variables that an outer job has set."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not (name in OF_ONE_JOB or name.startswith(("SLURM_", "SBATCH_")))
    }
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in {seconds:.0f} s")


def test(command: Sequence[str]) -> str:
    """Why sbatch would reject a job, without submitting it; empty if it would not."""
    result = call([command[0], "--test-only", *command[1:]])
    return "" if result.returncode == 0 else _message(result)


def submit(command: Sequence[str]) -> str:
    """Submits; returns the job id.

    Raises:
        StageError: sbatch rejects the job.
    """
    result = call(command)
    if result.returncode:
        raise StageError(f"sbatch rejected {command[-1]}: {_message(result)}")
    return result.stdout.strip().split(";")[0]


def _message(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    text = "; ".join(re.sub(r"^(sbatch: )?(error: )?", "", line) for line in lines)
    return text or f"exit status {result.returncode}"


def states_of(jobs: Iterable[str]) -> list[JobState]:
    """States of jobs and of their array tasks, without those that Slurm no longer knows; empty without Slurm."""
    wanted = list(dict.fromkeys(jobs))
    if not wanted or not is_available():
        return []
    result = call(["scontrol", "show", "job", "-o"])
    found = [state for state in parse_scontrol(result.stdout) if state.id.partition("_")[0] in wanted]
    known = {state.id.partition("_")[0] for state in found}
    return found + _from_accounting([job for job in wanted if job not in known])


def parse_scontrol(text: str) -> list[JobState]:
    """Output of ``scontrol show job -o``, a line per job or task. Waiting tasks share a line: ``ArrayTaskId=3-7%2``."""
    states = []
    for line in text.splitlines():
        fields: dict[str, str] = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobId" not in fields:
            continue
        job = fields.get("ArrayJobId", fields["JobId"])
        task = fields.get("ArrayTaskId", "")
        for name in [f"{job}_{index}" for index in expand(task)] if task else [job]:
            states.append(
                JobState(
                    name,
                    fields.get("JobState", "UNKNOWN"),
                    fields.get("ExitCode", "").split(":")[0],
                    int(fields.get("Restarts", 0)),
                    fields.get("NodeList", "").replace("(null)", ""),
                    fields.get("Reason", "").replace("None", ""),
                )
            )
    return states


def expand(tasks: str) -> list[int]:
    """``0-2,5%4`` -> ``[0, 1, 2, 5]``."""
    numbers: list[int] = []
    for part in tasks.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            last, _, step = (last or first).partition(":")
            numbers += range(int(first), int(last) + 1, int(step or 1))
    return numbers


def _from_accounting(jobs: list[str]) -> list[JobState]:
    if not jobs or shutil.which("sacct") is None:
        return []
    result = call(["sacct", "-j", ",".join(jobs), "-n", "-P", "-X", "-o", "JobID,State,ExitCode,NodeList"])
    states = []
    for line in result.stdout.splitlines() if result.returncode == 0 else []:
        fields = line.split("|")
        if len(fields) == 4 and "[" not in fields[0]:
            # "CANCELLED by 1000"
            states.append(JobState(fields[0], fields[1].split(" ")[0], fields[2].split(":")[0], 0, fields[3]))
    return states
