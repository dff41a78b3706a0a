"""Runs the stages of a recipe on this machine, in the order of the flow.

The table below is all that is known here about a stage: its name (which is also that of its recipe section and its
folder), what it reads, and where its code is. Code is imported when the stage runs, so that data stages start without
torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megatron_ipt.config import as_dict
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.manifest import StageContext, fingerprint_stage, read_manifest, run_stage
from megatron_ipt.progress import duration
from megatron_ipt.recipe import SAVED_RECIPE, Recipe, save_recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of section and folder.
        command: on the command line.
        help: one line.
        reads: earlier stages whose folders it is given.
        code: ``module:function``, called with (section, context), returns counts.
        files: ``module:function`` that fingerprints inputs from outside the run, called with (section).
        check: ``module:function`` that refuses at once what the stage would refuse later, called with (section).
        shardable: several processes may each do a share of it; ``code`` then takes ``shard=(i, N)``.
        libraries: packages of the extra ``train`` that it needs.
        shows: its counts for the log, in order; all of them where none are named.
    """

    name: str
    command: str
    help: str
    reads: tuple[str, ...]
    code: str
    files: str = ""
    check: str = ""
    shardable: bool = False
    libraries: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()


STAGES = (
    Stage(
        "corpus", "corpus", "Read raw text into sharded documents with id and split.", (),
        "megatron_ipt.corpus.stage:run", "megatron_ipt.corpus.stage:fingerprints", "megatron_ipt.corpus.stage:check",
        shows=("documents", "synthesis_documents", "raw_documents", "characters", "rejected"),
    ),
    Stage(
        "synthesis", "synthesize", "Make instruction–response pairs from the documents.", ("corpus",),
        "megatron_ipt.synthesis.stage:run", "megatron_ipt.synthesis.stage:fingerprints",
        "megatron_ipt.synthesis.stage:check", shardable=True,
        shows=("texts", "texts_with_pairs", "pairs", "pairs_per_text", "generated_tokens", "refused_texts", "dropped"),
    ),
    Stage(
        "augment", "augment", "Lay texts and their pairs out as pre-training documents.", ("synthesis",),
        "megatron_ipt.augment.stage:run", "megatron_ipt.augment.stage:fingerprints",
        "megatron_ipt.augment.templates:load_templates", shardable=True,
        shows=("documents", "texts", "pairs", "characters", "unmatched_options"),
    ),
    Stage(
        "tokens", "tokenize", "Tokenize and interleave into Megatron indexed datasets.", ("corpus", "augment"),
        "megatron_ipt.tokens.stage:run", "megatron_ipt.tokens.stage:fingerprints",
        "megatron_ipt.tokens.stage:check", shardable=True,
        shows=("train", "valid", "test", "empty_documents", "rejected"),
    ),
    Stage(
        "tuning", "tuning-data", "Pack tasks or conversations into masked sequences.", (),
        "megatron_ipt.tuning.stage:run", "megatron_ipt.tuning.stage:fingerprints",
    ),
    Stage(
        "training", "train", "Train with Megatron-Core.", ("tokens",),
        "megatron_ipt.training.stage:run", "megatron_ipt.training.stage:fingerprints",
        "megatron_ipt.training.stage:check", libraries=("torch", "megatron"),
        shows=("steps", "tokens", "parameters", "final_loss", "interventions"),
    ),
    Stage(
        "export", "export", "Write the trained model as a Hugging Face folder.", ("training", "tokens"),
        "megatron_ipt.convert.stage:run", libraries=("torch", "megatron"), shows=("parameters", "bytes"),
    ),
    Stage(
        "evaluation", "evaluate", "Compare the exported model with the trained one; measure.",
        ("training", "tokens", "export"), "megatron_ipt.evaluation.stage:run",
        "megatron_ipt.evaluation.stage:fingerprints", libraries=("torch", "megatron", "transformers"),
    ),
    Stage(
        "report", "report", "Write one HTML page about the run.",
        ("corpus", "synthesis", "augment", "tokens", "training", "export", "evaluation"),
        "megatron_ipt.report.stage:run",
    ),
)  # fmt: skip

_FROM_CORPUS = ("corpus", "synthesis", "augment", "tokens")
_FROM_TASKS = ("tuning",)
"""A recipe makes its token data in one of these two ways; what follows reads either as ``tokens``."""


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of this recipe, in order: pre-training on a corpus, or tuning where ``tuning.datasets`` names data."""
    left_out = _FROM_CORPUS if recipe.tuning.datasets else _FROM_TASKS
    return tuple(stage for stage in STAGES if stage.name not in left_out)


def stage_of(recipe: Recipe, name: str) -> Stage:
    """The stage of this recipe with this name or command.

    Raises:
        RecipeError: there is none.
    """
    stage = stage_named(name)
    stages = stages_of(recipe)
    if stage not in stages:
        there = ", ".join(stage.name for stage in stages)
        reason = "tuning.datasets names data to tune on" if recipe.tuning.datasets else "tuning.datasets names none"
        raise RecipeError(f"{stage.command}: not a stage of this recipe, because {reason}; its stages are {there}")
    return stage


def stage_named(name: str) -> Stage:
    """The stage with this name or command.

    Raises:
        RecipeError: there is none.
    """
    for stage in STAGES:
        if name in (stage.name, stage.command):
            return stage
    raise RecipeError(f"{name}: no such stage; the stages are {', '.join(stage.name for stage in STAGES)}")


def context_of(stage: Stage, recipe: Recipe) -> StageContext:
    """What ``stage`` is told besides its section."""
    root = Path(recipe.output_dir)
    folders = {other.name: root / other.name for other in stages_of(recipe)}
    if recipe.tuning.datasets:
        folders["tokens"] = folders["tuning"]
    return StageContext(
        name=stage.name,
        directory=root / stage.name,
        seed=recipe.seed,
        inputs={name: folders[name] for name in stage.reads if name in folders},
        compression=recipe.compression,
        recipe_name=recipe.name,
    )


def run_one(
    stage: Stage, recipe: Recipe, overwrite: bool = False, shard: tuple[int, int] | None = None, **options: Any
) -> bool:
    """Runs ``stage`` if it is not finished; returns whether it ran.

    Args:
        shard: (i, N) does only this share of it, beside other processes; a last run without it completes the stage.
        options: keyword arguments for the stage's code, for what is not a setting: the launcher of the training.

    Raises:
        RecipeError: the stage is not one of this recipe's, or cannot be shared out.
        StageError: a stage it reads is unfinished, or output of other settings is there.
    """
    stage_of(recipe, stage.name)
    section = getattr(recipe, stage.name)
    context = context_of(stage, recipe)
    inputs = []
    for directory in context.inputs.values():
        manifest = read_manifest(directory)
        if manifest is None or manifest["status"] != "complete":
            raise StageError(
                f"{stage.name}: needs the finished output of stage {directory.name} in {directory}; "
                f"run `megatron-ipt {stage_named(directory.name).command}` first"
            )
        inputs.append(fingerprint_stage(directory))
    if stage.files:
        inputs += _code(stage, stage.files)(section)
    settings = {"seed": recipe.seed, **as_dict(section, only_output=True)}
    if shard is not None:
        if not stage.shardable:
            raise RecipeError(f"{stage.command}: cannot be shared out with --shard")
        if overwrite:
            raise RecipeError("--overwrite with --shard: processes would discard each other's work; overwrite first")
        return run_stage(
            context, settings, inputs, lambda: _code(stage, stage.code)(section, context, shard=shard, **options),
            partial=True,
        )  # fmt: skip
    ran = run_stage(context, settings, inputs, lambda: _code(stage, stage.code)(section, context, **options), overwrite)
    manifest = cast("dict[str, Any]", read_manifest(context.directory))
    verb = f"done in {duration(manifest['seconds'])}" if ran else "already done"
    logger.info("%-10s %s  %s", stage.name, verb, summarize(manifest["counts"], stage.shows))
    return ran


def run_recipe(recipe: Recipe, overwrite: bool = False, until: str | None = None) -> None:
    """Runs all stages in order, skipping finished ones, up to and including ``until``.

    What can be told from the recipe alone is told before the first stage starts: code that cannot be imported, files
    that are not there, templates that are not valid.
    """
    stages = stages_of(recipe)
    last = stage_of(recipe, until) if until else stages[-1]
    root = Path(recipe.output_dir)
    todo = stages[: stages.index(last) + 1]
    for stage in todo:
        done = (read_manifest(root / stage.name) or {}).get("status") == "complete"
        # An engine may live in an environment of its own, which later stages do not have.
        if stage.check and (overwrite or not done):
            _imported(stage.check)(getattr(recipe, stage.name))
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


def summarize(counts: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """The plain figures among ``counts``, or those of ``names`` that there are, in one line; what did not occur is left
    out, and what was lost for several reasons is added up."""
    figures = []
    for name in names or counts:
        value, label = counts.get(name), name.replace("_", " ")
        if isinstance(value, dict):
            if name in ("rejected", "dropped"):
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


def _code(stage: Stage, target: str) -> Callable[..., Any]:
    missing = [name for name in stage.libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(
            f"{stage.name}: {' and '.join(missing)} not installed; `pip install megatron-ipt[train]` brings it"
        )
    return _imported(target)


def _imported(target: str) -> Callable[..., Any]:
    module, _, function = target.partition(":")
    return cast(Callable[..., Any], getattr(importlib.import_module(module), function))
