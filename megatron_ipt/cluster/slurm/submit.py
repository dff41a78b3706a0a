"""``submit``: a recipe as a chain of Slurm jobs, after checking everything that can be checked before they start."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.cluster.slurm import commands as slurm
from megatron_ipt.cluster.slurm.jobs import Folders, Job, jobs_of
from megatron_ipt.cluster.slurm.site import Site, read_site
from megatron_ipt.cluster.slurm.submissions import Record
from megatron_ipt.cluster.watch.progress import StageProgress, progress_of
from megatron_ipt.config import as_dict
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.manifest import changed_settings
from megatron_ipt.recipe import Recipe, defaults_of, load_recipe, section_of


@dataclass(frozen=True)
class Submission:
    """What ``submit`` did or would do.

    Attributes:
        jobs: in order.
        ids: of Slurm, by key; empty after a dry run.
        skipped: stages that are complete.
        problems: why sbatch would reject a job, by key (dry run only; otherwise they are raised).
        tested: whether a scheduler was available to check the jobs.
        folders: that must exist before the first job starts; a dry run does not create them.
    """

    jobs: list[Job]
    ids: dict[str, str]
    skipped: list[str]
    problems: dict[str, str]
    tested: bool
    folders: tuple[Path, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "jobs": [
                {
                    "key": job.key,
                    "id": self.ids.get(job.key),
                    "stage": job.stage,
                    "array": list(job.array),
                    "shares": job.shares,
                    "after": job.after,
                    "line": job.shell_line(),
                    "problem": self.problems.get(job.key, ""),
                }
                for job in self.jobs
            ],
            "skipped": self.skipped,
            "tested": self.tested,
        }


def submit(
    recipe_path: str | Path,
    overrides: Sequence[str],
    site_path: str | Path,
    scripts: str | Path | None = None,
    dry_run: bool = False,
) -> Submission:
    """Submits the unfinished stages of a recipe.

    Args:
        recipe_path: of the recipe; jobs run in the current folder, so that its relative paths keep their meaning.
        overrides: ``key=value``, passed to every job.
        site_path: the site file.
        scripts: folder of the batch scripts; by default ``slurm/`` of the checkout, or of the current folder.
        dry_run: submit nothing.

    Raises:
        RecipeError: something is wrong with the recipe, the site file or the scripts.
        StageError: jobs of this recipe are still in the queue, there is output made with other settings, or sbatch
            rejects a job. Nothing is submitted then.
    """
    recipe = load_recipe(recipe_path, tuple(overrides))
    site = read_site(site_path)
    record = Record(Path(recipe.output_dir).absolute())
    folders = Folders(
        scripts=find_scripts(scripts),
        logs=_log_folder(site, record),
        exits=record.exits,
        python=sys.executable,
    )
    progress = progress_of(recipe)
    _check_settings(recipe, progress)
    _check_queue(record)
    jobs = jobs_of(recipe, Path(recipe_path).absolute(), overrides, site, folders, progress)
    skipped = [row.stage.name for row in progress if row.complete]
    tested = slurm.is_available()
    if not tested and not dry_run:
        raise StageError(
            "submit: Slurm is not available (sbatch is missing, or slurmctld does not answer); try --dry-run"
        )
    problems = {job.key: problem for job in jobs if tested and (problem := slurm.test(job.command()))}
    if dry_run:
        return Submission(jobs, {}, skipped, problems, tested, (folders.logs, folders.exits))
    if problems:
        listed = "\n  ".join(f"{key}: {problem}" for key, problem in problems.items())
        raise StageError(
            f"submit: sbatch would reject these jobs, nothing was submitted:\n  {listed}\nSee {site.path}."
        )
    for folder in (folders.logs, folders.exits):
        folder.mkdir(parents=True, exist_ok=True)
    ids: dict[str, str] = {}
    for job in jobs:
        ids[job.key] = slurm.submit(job.command(ids.get(job.after, "")))
        record.add(job, ids[job.key])
    return Submission(jobs, ids, skipped, {}, tested, (folders.logs, folders.exits))


def render_submission(submission: Submission, dry_run: bool) -> str:
    """For people: the id of each job and what it does; for a dry run, commands that can be pasted."""
    lines = [f"# {stage}: complete, skipped" for stage in submission.skipped]
    if dry_run and submission.jobs:
        lines.append(shlex.join(["mkdir", "-p", *map(str, submission.folders)]))
    for job in submission.jobs:
        after = f" after {job.after}" if job.after else ""
        if dry_run:
            lines += [f"# {job.does}", job.shell_line()]
            if job.key in submission.problems:
                lines.append(f"# REJECTED by sbatch --test-only: {submission.problems[job.key]}")
        else:
            lines.append(f"{submission.ids[job.key]:<8}{job.key:<19}{job.does}{after}")
    if not submission.jobs:
        lines.append("# all stages are complete; nothing to submit")
    elif dry_run and not submission.tested:
        lines.append("# not checked with sbatch --test-only: no scheduler available")
    return "\n".join(lines)


def find_scripts(given: str | Path | None) -> Path:
    """The folder of the batch scripts.

    Raises:
        RecipeError: there is none.
    """
    checkout = Path(__file__).resolve().parents[3] / "slurm"
    candidates = [Path(given)] if given else [checkout, Path("slurm")]
    for candidate in candidates:
        if (candidate / "environment.sh").is_file():
            return candidate.absolute()
    raise RecipeError(
        f"no batch scripts in {' or '.join(map(str, candidates))}; name the folder slurm/ of a checkout with --scripts"
    )


def _log_folder(site: Site, record: Record) -> Path:
    given = site.get("", "LOG_DIR")
    if not given:
        return record.folder / "logs"
    if not Path(given).is_dir() or not os.access(given, os.W_OK):
        # Slurm would start the job and fail it without any message.
        raise RecipeError(f"{site.path}: LOG_DIR={given} is not a folder that can be written to; create it first")
    return Path(given).absolute()


def _check_queue(record: Record) -> None:
    """Two chains of one recipe would do the same work twice."""
    jobs = record.last_of_each_key()
    states = slurm.states_of(sorted({job.id for job in jobs}, key=int)) if jobs else []
    active = sorted({state.id for state in states if state.state in slurm.ACTIVE})
    if active:
        ids = sorted({state.partition("_")[0] for state in active}, key=int)
        raise StageError(
            f"submit: jobs of this recipe are still in the queue: {', '.join(active)}. Wait for them, or "
            f"`{shlex.join(['scancel', *ids])}` first."
        )


def _check_settings(recipe: Recipe, progress: list[StageProgress]) -> None:
    """Stages refuse output made with other settings; this finds it before any job is queued."""
    for row in progress:
        if not row.manifest:
            continue
        now = {"seed": recipe.seed, **as_dict(section_of(recipe, row.stage), only_output=True)}
        changed = changed_settings(row.manifest["settings"], now, defaults_of(recipe, row.stage))
        if changed:
            keys = ", ".join(name if name == "seed" else f"{row.stage.name}.{name}" for name in changed)
            raise StageError(
                f"{Path(recipe.output_dir) / row.stage.name}: holds output of other settings ({keys}). Use another "
                f"output_dir, or discard it with `megatron-ipt {row.stage.command} ... --overwrite`."
            )
