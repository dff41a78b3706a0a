"""The jobs submitted for a recipe: ``slurm/jobs.json`` in its output folder, and the exit statuses that jobs write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_ipt.cluster.slurm.commands import JobState
from megatron_ipt.cluster.slurm.jobs import Job
from megatron_ipt.files import read_json, write_json

FOLDER = "slurm"
_RECORD = "jobs.json"


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted."""

    id: str
    key: str
    stage: str
    array: tuple[int, ...]
    shares: int
    time: str

    def task_ids(self) -> list[str]:
        """``12_0``, ``12_1``, ... or ``12``."""
        return [f"{self.id}_{index}" for index in self.array] or [self.id]


class Record:
    """The jobs of a recipe, oldest first."""

    def __init__(self, output: Path):
        self.folder = output / FOLDER
        self.exits = self.folder / "exits"
        self._path = self.folder / _RECORD
        rows = read_json(self._path) if self._path.exists() else []
        self.jobs = [Submitted(**{**row, "array": tuple(row["array"])}) for row in rows]

    def add(self, job: Job, job_id: str) -> None:
        """Records a job immediately, so that an interrupted submission leaves no unknown jobs."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.jobs.append(Submitted(job_id, job.key, job.stage, job.array, job.shares, now))
        write_json(self._path, [asdict(row) for row in self.jobs])

    def last_of_each_key(self) -> list[Submitted]:
        """The newest job of every key, in the order of their submission."""
        newest = {job.key: job for job in self.jobs}
        return [job for job in self.jobs if newest[job.key] is job]

    def ended(self, task_id: str) -> JobState | None:
        """How a job ended that Slurm no longer knows; None if it wrote no exit status."""
        path = self.exits / task_id
        if not path.exists():
            return None
        status = path.read_text().strip()
        return JobState(task_id, "COMPLETED" if status == "0" else "FAILED", status)

    def state_of(self, task_id: str, live: Mapping[str, JobState]) -> JobState:
        """What Slurm reports, else what the job wrote, else ``UNKNOWN``."""
        return live.get(task_id) or self.ended(task_id) or JobState(task_id, "UNKNOWN")
