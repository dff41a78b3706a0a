"""``status``: stages, shards, jobs, tokens and loss, time left. Files say what is done; Slurm, who is at work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ipt.cluster.slurm import commands as slurm
from megatron_ipt.cluster.slurm.commands import JobState
from megatron_ipt.cluster.slurm.submissions import Record, Submitted
from megatron_ipt.cluster.watch.progress import StageProgress, progress_of, training_progress
from megatron_ipt.progress import duration
from megatron_ipt.readable import compact
from megatron_ipt.recipe import Recipe

_TIME = "%Y-%m-%dT%H:%M:%S%z"


def cluster_status(recipe: Recipe) -> list[dict[str, Any]]:
    """One row a stage.

    Returns:
        ``{stage, status, seconds, counts, shards_done, shards, jobs, training, seconds_left}``; ``jobs`` are
        ``{id, key, states, restarts, nodes, failed, reason}`` with the number of tasks by state; ``shards`` and
        ``training`` are None where there is nothing to say.
    """
    record = Record(Path(recipe.output_dir).absolute())
    jobs = record.last_of_each_key()
    live = {state.id: state for state in slurm.states_of([job.id for job in jobs])} if jobs else {}
    return [_row(progress, recipe, record, jobs, live) for progress in progress_of(recipe)]


def _row(
    progress: StageProgress, recipe: Recipe, record: Record, jobs: list[Submitted], live: Mapping[str, JobState]
) -> dict[str, Any]:
    name, manifest = progress.stage.name, progress.manifest
    row: dict[str, Any] = {
        "stage": name,
        "status": progress.status,
        "seconds": manifest.get("seconds"),
        "counts": manifest.get("counts", {}),
        "shards_done": sum(progress.done) if progress.done else None,
        "shards": len(progress.done) or None,
        "jobs": [_job(job, record, live) for job in jobs if job.stage == name],
        "training": None,
        "seconds_left": None,
    }
    if name == "training" and (training := training_progress(recipe)) is not None:
        row["training"] = asdict(training)
        if not progress.complete:
            row["seconds_left"] = training.seconds_left
    elif progress.status == "running" and progress.done and any(progress.done):
        elapsed = time.time() - time.mktime(time.strptime(manifest["started"][:19], _TIME[:-2]))
        row["seconds_left"] = max(0.0, elapsed) / sum(progress.done) * (len(progress.done) - sum(progress.done))
    return row


def _job(job: Submitted, record: Record, live: Mapping[str, JobState]) -> dict[str, Any]:
    # While all tasks of an array wait, Slurm knows the array only.
    states = [record.state_of(task, live) for task in job.task_ids()]
    failed = [state.id for state in states if state.state not in slurm.ACTIVE | {"COMPLETED", "UNKNOWN"}]
    return {
        "id": job.id,
        "key": job.key,
        "states": dict(Counter(state.state for state in states)),
        "restarts": sum(state.restarts for state in states),
        "nodes": sorted({state.nodes for state in states if state.nodes}),
        "failed": failed,
        "reason": next((state.reason for state in states if state.reason), ""),
    }


def render_status(rows: list[dict[str, Any]]) -> str:
    """For people: a line a stage, and a line for each of its jobs that is not simply done."""
    lines = []
    for row in rows:
        seconds = duration(row["seconds"]) if row["seconds"] is not None else ""
        line = f"{row['stage']:<12}{row['status']:<13}{seconds:>9}"
        facts = []
        if row["shards"]:
            facts.append(f"{row['shards_done']} of {row['shards']} shards")
        if row["training"]:
            facts += _training(row["training"])
        if row["seconds_left"] is not None:
            facts.append(f"{duration(row['seconds_left'])} left")
        lines.append((line + "  " + ", ".join(facts)).rstrip())
        for job in row["jobs"]:
            if row["status"] == "complete" and set(job["states"]) <= {"COMPLETED", "UNKNOWN"}:
                continue
            lines.append("    " + _job_line(job))
    return "\n".join(lines)


def _training(training: dict[str, Any]) -> list[str]:
    of_steps = f" of {training['steps']:,}" if training["steps"] else ""
    return [
        f"step {training['step']:,}{of_steps}",
        f"{compact(training['tokens'])} tokens",
        f"loss {training['loss']:.4f}",
        f"{compact(training['tokens_per_second'])} tokens/s",
    ]


def _job_line(job: dict[str, Any]) -> str:
    states = ", ".join(
        state.lower() if len(job["states"]) == 1 and count == 1 else f"{count} {state.lower()}"
        for state, count in job["states"].items()
    )
    facts = [f"job {job['id']} {job['key']}: {states}"]
    if job["nodes"]:
        facts.append("on " + ",".join(job["nodes"]))
    if job["restarts"]:
        facts.append(f"restarted {job['restarts']} times")
    if job["failed"]:
        facts.append("failed: " + ", ".join(job["failed"]))
    if job["reason"]:
        facts.append(job["reason"])
    return "; ".join(facts)
