"""``status``: stages, units, jobs, time left. Files say what is done; Slurm says what is queued and running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ipt.cluster.slurm import commands as slurm
from megatron_ipt.cluster.slurm.commands import JobState
from megatron_ipt.cluster.slurm.submissions import Record, Submitted
from megatron_ipt.cluster.watch.progress import StageProgress, progress_of
from megatron_ipt.progress import duration
from megatron_ipt.recipe import Recipe


def cluster_status(recipe: Recipe) -> list[dict[str, Any]]:
    """One row per stage.

    Returns:
        ``{stage, status, seconds, counts, shards_done, shards, unit, jobs, facts, progress, seconds_left}``. ``jobs``
        are ``{id, key, states, restarts, nodes, failed, reason}`` with the number of tasks by state. ``shards`` are the
        units of the stage, called ``unit``. ``facts`` and ``progress`` are what the stage itself reports, for people
        and for programs. What does not apply is None.
    """
    record = Record(Path(recipe.output_dir).absolute())
    jobs = record.last_of_each_key()
    live = {state.id: state for state in slurm.states_of([job.id for job in jobs])} if jobs else {}
    return [_row(progress, record, jobs, live) for progress in progress_of(recipe)]


def _row(
    progress: StageProgress, record: Record, jobs: list[Submitted], live: Mapping[str, JobState]
) -> dict[str, Any]:
    stage, manifest, own = progress.stage, progress.manifest, progress.own
    return {
        "stage": stage.name,
        "status": progress.status,
        "seconds": manifest.get("seconds"),
        "counts": manifest.get("counts", {}),
        "shards_done": sum(progress.done) if progress.done else None,
        "shards": len(progress.done) or None,
        "unit": stage.unit if stage.shardable else None,
        "jobs": [_job(job, record, live) for job in jobs if job.stage == stage.name],
        "facts": list(own.facts) if own else [],
        "progress": dict(own.figures) if own else None,
        "seconds_left": progress.seconds_left(),
    }


def _job(job: Submitted, record: Record, live: Mapping[str, JobState]) -> dict[str, Any]:
    # While all tasks of an array wait, Slurm lists only the array.
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
    """For people: a line per stage, and one for each of its jobs that has not simply completed."""
    lines = []
    width = max(12, *(len(row["stage"]) + 2 for row in rows))
    for row in rows:
        seconds = duration(row["seconds"]) if row["seconds"] is not None else ""
        line = f"{row['stage']:<{width}}{row['status']:<13}{seconds:>9}"
        facts = [f"{row['shards_done']} of {row['shards']} {row['unit']}"] if row["shards"] else []
        facts += row["facts"]
        if row["seconds_left"] is not None:
            facts.append(f"{duration(row['seconds_left'])} left")
        lines.append((line + "  " + ", ".join(facts)).rstrip())
        for job in row["jobs"]:
            if row["status"] == "complete" and set(job["states"]) <= {"COMPLETED", "UNKNOWN"}:
                continue
            lines.append("    " + _job_line(job))
    return "\n".join(lines)


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
