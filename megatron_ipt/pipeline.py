"""Runs the stages of a recipe on this machine, in the order of the flow.

What a stage is, is described in its room (see :mod:`megatron_ipt.stages`); nothing here knows one by name. Code is
imported when a stage runs, so that data stages start without torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megatron_ipt.config import as_dict
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.manifest import (
    StageContext,
    check_existing,
    fingerprint_stage,
    read_manifest,
    run_stage,
    stage_locked,
)
from megatron_ipt.progress import duration
from megatron_ipt.recipe import SAVED_RECIPE, Recipe, defaults_of, save_recipe, section_of, stages_of
from megatron_ipt.stages import Action, Stage, inputs_of, is_wanted, makers_of, stage_named

logger = logging.getLogger(__name__)


def stage_of(recipe: Recipe, name: str) -> Stage:
    """The stage of this recipe with this name or command.

    Raises:
        RecipeError: there is none.
    """
    stage = stage_named(name)
    stages = stages_of(recipe)
    if stage not in stages:
        raise RecipeError(
            f"{name}: not a stage of this recipe, because {_reason(stage, recipe)}; its stages are {_listed(stages)}"
        )
    return stage


def _listed(stages: tuple[Stage, ...]) -> str:
    return ", ".join(stage.name for stage in stages)


def _reason(stage: Stage, recipe: Recipe) -> str:
    if stage.name in recipe.skip:
        return "it is skipped (key skip, or its section is null)"
    if not is_wanted(section_of(recipe, stage)):
        return f"its section does not ask for it (`megatron-ipt keys {stage.name}`)"
    missing = set(stage.reads) - {kind for other in stages_of(recipe) for kind in other.makes}
    if missing:
        return f"nothing makes the {' and '.join(sorted(missing))} that it reads"
    begins = f"{stage.begins_with} names no data" if stage.begins_with else ""
    optional = (*stage.reads_if_made, *stage.remakes)
    reads = f"nothing makes {' or '.join(optional)}" if optional else ""
    return " and ".join(filter(None, (begins, reads)))


def context_of(stage: Stage, recipe: Recipe) -> StageContext:
    """What ``stage`` is told besides its section."""
    root = Path(recipe.output_dir)
    return StageContext(
        name=stage.name,
        directory=root / stage.name,
        seed=recipe.seed,
        inputs={kind: root / other.name for kind, other in inputs_of(stage, stages_of(recipe)).items()},
        compression=recipe.compression,
        recipe_name=recipe.name,
    )


def folder_of(recipe: Recipe, kind: str) -> Path:
    """Folder of the last stage of this recipe that makes ``kind``.

    Raises:
        RecipeError: none does.
    """
    maker = makers_of(stages_of(recipe)).get(kind)
    if maker is None:
        raise RecipeError(f"no stage of this recipe makes {kind}; its stages are {_listed(stages_of(recipe))}")
    return context_of(maker, recipe).directory


def run_one(
    stage: Stage,
    recipe: Recipe,
    overwrite: bool = False,
    shard: tuple[int, int] | None = None,
    again: bool = False,
    unit: str | None = None,
    until: str | None = None,
    **options: Any,
) -> bool:
    """Runs ``stage`` if it is not finished; returns whether it ran.

    Args:
        again: run it even if it is finished.
        shard: (i, N) does only this share of it, beside other processes; a last run without it completes the stage.
        unit: does only the unit with this name, likewise; for stages with a ``unit_option``.
        until: ends after this step and leaves the stage unfinished; for stages with ``steps``.
        options: keyword arguments for the stage's code, for what is not a setting: the launcher of the training.

    Raises:
        RecipeError: the stage is not one of this recipe's, or is not shardable.
        StageError: a stage it reads is unfinished, or output of other settings is there.
    """
    job = _prepared(stage, recipe)
    code = stage.function(stage.code)
    share = {"--shard": shard, stage.unit_option: unit, "--until": until}
    parts = {option: value for option, value in share.items() if value is not None}
    if parts:
        _check_divisible(stage)
        if None not in (shard, unit) and not stage.unit_group:
            raise RecipeError(f"{' and '.join(parts)}: one at a time")
        if overwrite:
            raise RecipeError(
                f"--overwrite with {next(iter(parts))}: processes would discard each other's work; overwrite first"
            )
        options |= {"shard": shard} if shard is not None else {}
        options |= {"unit": unit} if unit is not None else {}
        options |= {"until": until} if until is not None else {}
    context = job.context
    ran = run_stage(
        context, job.settings, job.inputs, lambda: code(job.section, context, **options), overwrite,
        partial=bool(parts), defaults=job.defaults, again=again, keeps=stage.keeps,
    )  # fmt: skip
    if parts:
        return ran
    manifest = cast("dict[str, Any]", read_manifest(context.directory))
    verb = f"done in {duration(manifest['seconds'])}" if ran else "already done"
    logger.info("%-10s %s  %s", stage.name, verb, summarize(manifest["counts"], stage.shows))
    return ran


def run_action(
    stage: Stage,
    recipe: Recipe,
    action: Action,
    value: str | None = None,
    shard: tuple[int, int] | None = None,
    unit: str | None = None,
) -> dict[str, Any]:
    """Does ``action`` of ``stage`` and returns its result. Does not run the stage.

    Args:
        value: of the option, if it takes one.
        shard: (i, N) does only this share, for an action after which the stage runs.
        unit: does only the unit with this name, likewise.

    Raises:
        RecipeError: the stage is not one of this recipe's, or is not shardable.
        StageError: a stage it reads is unfinished; or, for an action after which the stage runs, output of other
            settings is there, or another process is making it.
    """
    job = _prepared(stage, recipe)
    options: dict[str, Any] = {"value": value} if action.value else {}
    code = stage.function(action.code)
    if not action.then_run:
        return cast("dict[str, Any]", code(job.section, job.context, **options))
    if shard is not None:
        _check_divisible(stage)
    if stage.shardable:
        options["shard"] = shard
    if stage.unit_option:
        options["unit"] = unit
    with stage_locked(job.context, shared=shard is not None or unit is not None):
        check_existing(job.context, job.settings, job.inputs, job.defaults)
        return cast("dict[str, Any]", code(job.section, job.context, **options))


@dataclass(frozen=True)
class _Prepared:
    """What a stage is called with, once everything it reads is finished."""

    section: Any
    context: StageContext
    settings: dict[str, Any]
    inputs: list[dict[str, Any]]
    defaults: Mapping[str, Any]


def _prepared(stage: Stage, recipe: Recipe) -> _Prepared:
    stage_of(recipe, stage.name)
    section = section_of(recipe, stage)
    context = context_of(stage, recipe)
    inputs = []
    for directory in dict.fromkeys(context.inputs.values()):
        manifest = read_manifest(directory)
        if manifest is None or manifest["status"] != "complete":
            raise StageError(
                f"{stage.name}: needs the finished output of stage {directory.name} in {directory}; "
                f"run `megatron-ipt {stage_named(directory.name).command}` first"
            )
        inputs.append(fingerprint_stage(directory))
    if stage.files:
        inputs += stage.function(stage.files)(section)
    settings = {"seed": recipe.seed, **as_dict(section, only_output=True)}
    return _Prepared(section, context, settings, inputs, defaults_of(recipe, stage))


def _check_divisible(stage: Stage) -> None:
    if not stage.shardable:
        raise RecipeError(f"{stage.command}: cannot be divided with --shard")


def run_recipe(recipe: Recipe, overwrite: bool = False, until: str | None = None) -> None:
    """Runs all stages in order, skipping finished ones, up to and including ``until``.

    Problems that can be found from the recipe alone are raised before the first stage starts: code that cannot be
    imported, missing files, invalid templates.
    """
    stages = stages_of(recipe)
    last = stage_of(recipe, until) if until else stages[-1]
    root = Path(recipe.output_dir)
    todo = stages[: stages.index(last) + 1]
    for stage in todo:
        done = (read_manifest(root / stage.name) or {}).get("status") == "complete"
        # An engine may live in an environment of its own, which later stages do not have.
        if stage.check and (overwrite or not done):
            stage.function(stage.check)(section_of(recipe, stage))
    for stage in todo:
        run_one(stage, recipe, overwrite)
        if stage is stages[0] or overwrite:
            save_recipe(recipe, root / SAVED_RECIPE)


def status_of(recipe: Recipe) -> list[dict[str, Any]]:
    """State of every stage: ``{stage, status, seconds, counts}``; ``status`` is ``missing`` where none has begun."""
    rows = []
    for stage in stages_of(recipe):
        manifest = read_manifest(Path(recipe.output_dir) / stage.name) or {}
        rows.append(
            {
                "stage": stage.name,
                "status": manifest.get("status", "missing"),
                "seconds": manifest.get("seconds"),
                "counts": manifest.get("counts", {}),
            }
        )
    return rows


def results_of(recipe: Recipe) -> dict[str, Path]:
    """What a finished run names as its results (``model``, ``report``), as far as it is there."""
    return {
        Path(stage.result).stem: path
        for stage in stages_of(recipe)
        if stage.result and (path := Path(recipe.output_dir) / stage.name / stage.result).exists()
    }


def summarize(counts: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """The plain figures among ``counts``, or those of ``names`` that there are, in one line; what did not occur is left
    out, and what was lost for several reasons is added up."""
    figures = []
    for name in names or counts:
        value, label = counts.get(name), name.replace("_", " ")
        if isinstance(value, dict):
            if name in ("rejected", "dropped", "lost"):
                value = sum(value.values())
            elif "tokens" in value:
                value, label = value["tokens"], f"{label} tokens"
        if isinstance(value, float):
            figures.append(f"{value:.3g} {label}" if " per " in label else f"{label} {value:.4g}")
        elif isinstance(value, int) and not isinstance(value, bool) and value:
            figures.append(f"{value:,} {_singular(label) if value == 1 else label}")
    return ", ".join(figures)


def _singular(label: str) -> str:
    """``text files`` -> ``text file``; the counted word comes last, or before its attribute (``texts with pairs``)."""
    counted, with_, attribute = label.partition(" with ")
    return f"{counted.removesuffix('s')}{with_}{attribute}"
