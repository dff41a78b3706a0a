"""Runs a comparison: data, runs, table, plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt import stages
from megatron_ipt.comparison import data, plot
from megatron_ipt.comparison.config import ComparisonConfig
from megatron_ipt.comparison.runs import Run, run_all, runs_of
from megatron_ipt.comparison.table import markdown, measured
from megatron_ipt.config import as_dict
from megatron_ipt.evaluation.stage import RESULTS
from megatron_ipt.files import atomic_open, read_json, write_json
from megatron_ipt.manifest import StageContext, fingerprint_file, read_manifest, run_stage
from megatron_ipt.pipeline import folder_of


def compare(config: ComparisonConfig, overwrite: bool = False) -> dict[str, Any]:
    """Runs all unfinished runs and writes ``results.json``, ``results.md``, ``results.png`` and ``results.svg``.

    Returns:
        The content of ``results.json``: results of all runs by variant.

    Raises:
        RecipeError: a recipe is invalid; nothing has been run.
        StageError: a run failed, or a folder contains output made with different settings.
    """
    folder = Path(config.output_dir)
    runs = runs_of(config, folder)
    context = StageContext("data", folder / "data", config.split_seed, {})
    names = ("tasks", "text", "held_out_share", "vocab_size", "split_seed")
    settings = {name: value for name, value in as_dict(config).items() if name in names}
    inputs = [fingerprint_file(path) for path in (*config.tasks, *config.text)]
    run_stage(context, settings, inputs, lambda: data.prepare(config, context.directory), overwrite)
    run_all(runs, config.processes)
    return write_results(config, runs)


def write_results(config: ComparisonConfig, runs: list[Run]) -> dict[str, Any]:
    """Collects the results of finished runs and writes the result files."""
    folder = Path(config.output_dir)
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in config.arms}
    for run in runs:
        counts = (read_manifest(folder_of(run.recipe, stages.CHECKPOINTS)) or {})["counts"]
        results = read_json(folder_of(run.recipe, stages.RESULTS) / RESULTS)
        rows[run.arm].append({"seed": run.seed, **measured(results, counts)})
    table = {
        "name": config.name,
        "data": (read_manifest(folder / "data") or {})["counts"],
        "arms": {arm: {"overrides": overrides, "runs": rows[arm]} for arm, overrides in config.arms.items()},
    }
    write_json(folder / "results.json", table)
    with atomic_open(folder / "results.md") as stream:
        stream.write(markdown(rows).encode())
    plot.save(config.name.replace("_", " "), rows, [folder / "results.png", folder / "results.svg"])
    return table
