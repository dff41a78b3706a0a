"""The jobs of a recipe: which script with which options after which job. From values to values; nothing is run here.

What a job asks for follows from the description of its stage and from the site file. A stage without units is one job;
one with units is an array over shares of them and a job that completes the stage. A stage on whole nodes has a script
of its own, all others share one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.cluster.slurm.site import MERGE, OPTIONS, Site
from megatron_ipt.cluster.watch.progress import StageProgress
from megatron_ipt.errors import RecipeError
from megatron_ipt.recipe import Recipe, section_of
from megatron_ipt.stages import Stage, load

STAGE_SCRIPT = "stage.sbatch"
"""Of every stage that does not run on whole nodes."""
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
        stage: name of the stage.
        script: path.
        options: of sbatch, without the dependency.
        arguments: of the script.
        does: for people.
        array: indices of the tasks; empty for a job without.
        shares: into which the stage is divided.
        after: key of the job that must succeed first.
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
        RecipeError: the site file has an impossible value, or a stage on whole nodes has no script.
    """
    setup = _Setup(recipe, site, folders, (str(site.path), str(recipe_path), *overrides))
    jobs: list[Job] = []
    for row in progress:
        if row.complete:
            continue
        for job in setup.jobs(row):
            jobs.append(replace(job, after=jobs[-1].key if jobs else ""))
    return jobs


def shares_of(row: StageProgress, site: Site) -> int:
    """Into how many shares a stage is divided: the site's number, but not more than there are units."""
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


def sizes_of(stage: Stage, recipe: Recipe, site: Site) -> dict[str, str]:
    """Settings of size for a job or task of ``stage``, by name; those that are not asked for are left out."""
    names = ["CPUS_PER_TASK", *(["NODES"] if stage.resources.whole_nodes else ["MEM"])]
    sizes = {name: site.get(stage.name, name) for name in names}
    if stage.resources.gpus == "node":
        sizes["GPUS_PER_NODE"] = site.get(stage.name, "GPUS_PER_NODE")
    elif stage.resources.gpus == "task":
        hook = stage.resources.gpus_per_task
        needed = load(hook)(section_of(recipe, stage)) if hook else 1
        sizes["GPUS_PER_TASK"] = (site.get(stage.name, "GPUS_PER_TASK") or str(needed)) if needed else ""
    return {name: value for name, value in sizes.items() if value and not (value == "0" and name.startswith("GPUS"))}


@dataclass(frozen=True)
class _Setup:
    """What all jobs of a submission have in common.

    Attributes:
        recipe: whose stages they are.
        site: settings of the cluster.
        folders: of scripts, logs and exit statuses.
        arguments: of every script, after the stage.
    """

    recipe: Recipe
    site: Site
    folders: Folders
    arguments: tuple[str, ...]

    def jobs(self, row: StageProgress) -> list[Job]:
        """The jobs of one stage."""
        if row.stage.resources.whole_nodes:
            return [self._on_whole_nodes(row.stage)]
        if not row.stage.shardable:
            return [self._single(row.stage)]
        parts = {step: row.of_step(step) for step in row.stage.steps} or {"": row}
        arrays = [self._array(part, step) for step, part in parts.items() if part is not None]
        return [*filter(None, arrays), self._completion(row.stage)]

    def _single(self, stage: Stage) -> Job:
        sizes = sizes_of(stage, self.recipe, self.site)
        options = (*self._options(stage.name, stage.name, stage, sizes), self._export(self._exports(stage)))
        return Job(_key(stage), stage.name, self._script, options, (stage.name, *self.arguments), stage.help)

    def _on_whole_nodes(self, stage: Stage) -> Job:
        script = self.folders.scripts / f"{stage.command}.sbatch"
        if not script.is_file():
            raise RecipeError(
                f"{stage.name}: no batch script {script}; a stage that runs on whole nodes needs one of its own, "
                "see train.sbatch for an example"
            )
        return replace(self._single(stage), script=script, arguments=self.arguments)

    def _array(self, row: StageProgress, step: str) -> Job | None:
        """The shares of a stage, or of one step of it, that are not done; None where all are."""
        stage = row.stage
        shares = shares_of(row, self.site)
        unfinished = row.unfinished_shares(shares)
        if not unfinished:
            return None
        at_once = self.site.number(stage.name, "ARRAY_RUNNING", len(unfinished))
        sizes = sizes_of(stage, self.recipe, self.site)
        if step in stage.resources.steps_on_cpu:
            sizes.pop("GPUS_PER_TASK", None)
        until = {"MEGATRON_IPT_UNTIL": step} if step else {}
        options = (
            *self._options(stage.name, "-".join(filter(None, (stage.name, step))), stage, sizes, "%x_%A_%a"),
            self._export(self._exports(stage) | {"MEGATRON_IPT_SHARES": str(shares)} | until),
            f"--array={ranges(unfinished)}%{at_once}",
        )
        done = shares - len(unfinished)
        does = (
            f"{stage.help.rstrip('.')}{', ' * bool(step)}{step}: {len(unfinished)} of {shares} shares"
            + (f", {done} done" * (done > 0))
            + "."
        )
        arguments = (stage.name, *self.arguments)
        key = "_".join(filter(None, (_key(stage), step)))
        return Job(key, stage.name, self._script, options, arguments, does, tuple(unfinished), shares)

    def _completion(self, stage: Stage) -> Job:
        """What completes a stage when all shares are done. It needs no GPU, and the software of the stage only if the
        stage says so."""
        exported = self._exports(stage)
        if not stage.libraries:
            exported["MEGATRON_IPT_SOFTWARE"] = MERGE
        sizes = {name: self.site.get(MERGE, name) for name in ("CPUS_PER_TASK", "MEM")}
        options = (*self._options(MERGE, f"{stage.name}-{MERGE}", stage, sizes), self._export(exported))
        does = f"Complete {stage.command}: {stage.completes}."
        arguments = (stage.name, *self.arguments)
        return Job(f"{_key(stage)}_{MERGE}", stage.name, self._script, options, arguments, does)

    @property
    def _script(self) -> Path:
        return self.folders.scripts / STAGE_SCRIPT

    def _options(
        self, section: str, name: str, stage: Stage, sizes: Mapping[str, str], log: str = "%x_%j"
    ) -> tuple[str, ...]:
        """Options of sbatch, without ``--export``.

        Args:
            section: whose settings of the site file are taken.
            name: of the job.
        """
        settings = {setting: self.site.get(section, setting) for setting in _PLACE}
        settings["TIME"] = settings["TIME"] or stage.resources.time
        return (
            f"--job-name={self.recipe.name}-{name}",
            f"--output={self.folders.logs}/{log}.out",
            *(f"{OPTIONS[setting]}={value}" for setting, value in {**settings, **sizes}.items() if value),
            *shlex.split(self.site.get(section, "SBATCH_OPTIONS")),
        )

    def _exports(self, stage: Stage) -> dict[str, str]:
        """Environment of the scripts."""
        exported = {
            "MEGATRON_IPT_SLURM": str(self.folders.scripts),
            "MEGATRON_IPT_PYTHON": self.folders.python,
            "MEGATRON_IPT_EXITS": str(self.folders.exits),
        }
        if stage.resources.cores:
            exported["MEGATRON_IPT_CORES"] = f"{stage.name}.{stage.resources.cores}"
        return exported

    def _export(self, exported: Mapping[str, str]) -> str:
        for variable, value in exported.items():
            if "," in value:
                raise RecipeError(
                    f"{variable}={value}: sbatch --export cannot pass a value with a comma; move the folder"
                )
        return "--export=ALL," + ",".join(f"{variable}={value}" for variable, value in exported.items())


def _key(stage: Stage) -> str:
    return stage.command.replace("-", "_")
