"""The jobs of a recipe: which script with which options after which job. From values to values; nothing is run here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.cluster.slurm.site import OPTIONS, Site
from megatron_ipt.cluster.watch.progress import StageProgress
from megatron_ipt.errors import RecipeError
from megatron_ipt.recipe import Recipe
from megatron_ipt.synthesis.pair_sources import source_named

_CPU = ("CPUS_PER_TASK", "MEM")
_SIZES = {
    "synthesis": ("CPUS_PER_TASK", "MEM", "GPUS_PER_TASK"),
    "training": ("CPUS_PER_TASK", "NODES", "GPUS_PER_NODE"),
    "evaluation": ("CPUS_PER_TASK", "MEM", "GPUS_PER_NODE"),
}
"""Settings of size that a stage takes; every stage takes those of place and time."""
_PLACE = ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION", "EXCLUDE", "TIME")
_DEFAULT_TASKS = 16


@dataclass(frozen=True)
class Folders:
    """Where things are.

    Attributes:
        scripts: the sbatch scripts and ``environment.sh``.
        logs: of jobs; must exist when they start.
        exits: gets the exit status of every job.
        python: a Python with this package on the nodes.
    """

    scripts: Path
    logs: Path
    exits: Path
    python: str


@dataclass(frozen=True)
class Job:
    """One call of sbatch.

    Attributes:
        key: unique among the jobs of a submission, usable as a shell variable.
        stage: whose work it does.
        script: file name in the scripts' folder.
        options: of sbatch, without dependency.
        arguments: of the script.
        array: indices of the tasks; empty for a job without.
        shares: into which the stage is divided.
        after: key of the job that must succeed first.
        does: for people.
    """

    key: str
    stage: str
    script: Path
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    does: str
    array: tuple[int, ...] = ()
    shares: int = 0
    after: str = ""

    def command(self, dependency: str = "") -> list[str]:
        """The words of the call; ``dependency`` is a job id."""
        words = ["sbatch", "--parsable", *self.options]
        if dependency:
            words += [f"--dependency=afterok:{dependency}", "--kill-on-invalid-dep=yes"]
        return [*words, str(self.script), *self.arguments]

    def shell_line(self) -> str:
        """The call as a line to paste, in which the dependency is the shell variable of the job before."""
        mark = "DEPENDENCY"
        words = [shlex.quote(word) for word in self.command(mark if self.after else "")]
        line = " ".join(words).replace(f"afterok:{mark}", f'afterok:"${self.after}"')
        return f"{self.key}=$({line})"


def jobs_of(
    recipe: Recipe,
    recipe_path: Path,
    overrides: Iterable[str],
    site: Site,
    folders: Folders,
    progress: list[StageProgress],
) -> list[Job]:
    """The jobs that are left to do, in order, each after the one before it.

    Raises:
        RecipeError: the site file asks for what cannot be.
    """
    arguments = (str(site.path), str(recipe_path), *overrides)
    jobs: list[Job] = []
    for row in progress:
        if row.complete:
            continue
        for job in _jobs_of_stage(row, recipe, site, folders, arguments):
            jobs.append(replace(job, after=jobs[-1].key if jobs else ""))
    return jobs


def _jobs_of_stage(
    row: StageProgress, recipe: Recipe, site: Site, folders: Folders, arguments: tuple[str, ...]
) -> list[Job]:
    stage = row.stage
    if not stage.shardable:
        return [
            Job(
                stage.command, stage.name, folders.scripts / f"{stage.command}.sbatch",
                _options(stage.name, stage.name, recipe, site, folders), arguments, stage.help,
            )
        ]  # fmt: skip
    jobs = []
    shares = shares_of(row, site)
    unfinished = row.unfinished_shares(shares)
    if unfinished:
        running = site.number(stage.name, "ARRAY_RUNNING", len(unfinished))
        options = _options(stage.name, stage.name, recipe, site, folders, shares)
        done = shares - len(unfinished)
        jobs.append(
            Job(
                stage.command,
                stage.name,
                folders.scripts / f"{stage.command}.sbatch",
                (*options, f"--array={ranges(unfinished)}%{running}"),
                arguments,
                f"{stage.help[:-1]}: {len(unfinished)} of {shares} shares" + (f", {done} are done." if done else "."),
                tuple(unfinished),
                shares,
            )
        )
    jobs.append(
        Job(
            f"{stage.command}_merge", stage.name, folders.scripts / "merge.sbatch",
            _options("merge", f"{stage.name}-merge", recipe, site, folders), (stage.command, *arguments),
            f"Complete {stage.command}: counts and manifest" + (", one dataset." if stage.name == "tokens" else "."),
        )
    )  # fmt: skip
    return jobs


def shares_of(row: StageProgress, site: Site) -> int:
    """Into how many shares an array stage is divided: the site's number, but not more than there are shards."""
    wanted = max(1, site.number(row.stage.name, "ARRAY_TASKS", _DEFAULT_TASKS))
    return min(wanted, len(row.done)) if row.done else wanted


def ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2,5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _options(section: str, name: str, recipe: Recipe, site: Site, folders: Folders, shares: int = 0) -> tuple[str, ...]:
    options = [f"--job-name={recipe.name}-{name}"]
    options.append(f"--output={folders.logs}/{'%x_%A_%a' if shares else '%x_%j'}.out")
    for setting in _PLACE + _SIZES.get(section, _CPU):
        value = _size_of(section, setting, recipe, site)
        if value and value != "0":
            options.append(f"{OPTIONS[setting]}={value}")
    options += shlex.split(site.get(section, "SBATCH_OPTIONS"))
    exported = {
        "MEGATRON_IPT_SLURM": str(folders.scripts),
        "MEGATRON_IPT_PYTHON": folders.python,
        "MEGATRON_IPT_EXITS": str(folders.exits),
        **({"MEGATRON_IPT_SHARES": str(shares)} if shares else {}),
    }
    for variable, value in exported.items():
        if "," in value:
            raise RecipeError(f"{variable}={value}: sbatch --export takes no value with a comma; move the folder")
    options.append("--export=ALL," + ",".join(f"{variable}={value}" for variable, value in exported.items()))
    return tuple(options)


def _size_of(section: str, setting: str, recipe: Recipe, site: Site) -> str:
    value = site.get(section, setting)
    if setting == "GPUS_PER_TASK":
        if source_named(recipe.synthesis.engine).kind != "model" or recipe.synthesis.engine == "openai":
            return ""
        return value or str(recipe.synthesis.tensorrt_llm.tensor_parallel_size)
    return value
