"""Runs benchmarks on one model, and converts the results to one format for all kinds of tasks.

lm-evaluation-harness reports metrics under names such as ``acc_norm,none``. Here every benchmark has ``metrics`` by
plain name with standard errors, and one ``accuracy``: ``acc`` if there is one, else the first metric of the task.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from megatron_ipt.config import as_dict
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.evaluation.harness import lm_evaluation
from megatron_ipt.evaluation.harness.config import HarnessConfig
from megatron_ipt.evaluation.harness.in_context import Answerer
from megatron_ipt.evaluation.harness.lm_evaluation import LoadedBenchmark
from megatron_ipt.evaluation.in_context.config import InContextConfig

logger = logging.getLogger(__name__)

_PREFERRED = ("acc", "exact_match", "acc_norm")
_NOT_METRICS = ("name", "alias", "sample_len", "sample_count")


def load(config: HarnessConfig) -> list[LoadedBenchmark]:
    """Loads the section's benchmarks with their data; see :func:`.lm_evaluation.load_benchmarks`."""
    benchmarks = config.benchmarks()
    return lm_evaluation.load_benchmarks(benchmarks, config.include_path) if benchmarks else []


def run(
    config: HarnessConfig, folder: Path, loaded: list[LoadedBenchmark], shown: InContextConfig | None = None
) -> dict[str, Any]:
    """Measures the Hugging Face model in ``folder`` on ``loaded``.

    Args:
        shown: demonstrations that all questions of a task share, in place of those of the library; None or mode
            ``none`` for those.

    Returns:
        ``{library, dtype, device, add_bos_token, seed, limit, tasks}``, and ``in_context`` with what was ``shown``;
        ``tasks`` by name:
        ``{shots, questions, metric, accuracy, stderr, metrics, subtasks}``, accuracies from 0 to 1, ``metrics`` by name
        as ``{value, stderr}``, ``subtasks`` of a group in the same format.

    Raises:
        InputError: the folder cannot be loaded.
        RecipeError: no benchmarks are given.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a Hugging Face model (config.json is missing)")
    if not loaded:
        raise RecipeError("benchmarks: none given; use --preset or --tasks (evaluation.harness in a recipe)")
    model = lm_evaluation.open_model(folder, config.dtype, config.batch_size, config.add_bos_token)
    answerer = None
    if shown is not None and shown.mode != "none":
        answerer = Answerer(model, shown, config.add_bos_token)
    tasks = {}
    for number, benchmark in enumerate(loaded, 1):
        name = benchmark.benchmark.task
        label = f"benchmark {name} ({number}/{len(loaded)})"
        report = lm_evaluation.measure(model, benchmark, config.limit, config.seed, label, answerer)
        tasks[name] = _figures(name, report, benchmark)
        logger.info("%s: %s %.4g", label, tasks[name]["metric"], tasks[name]["accuracy"])
        if answerer is not None and shown is not None:
            for part in (tasks[name], *tasks[name]["subtasks"].values()):
                part["shots"] = shown.demonstrations
            continue
        asked, used = benchmark.benchmark.shots, tasks[name]["shots"]
        if asked is not None and used != asked:
            logger.warning("benchmark %s: %s shots requested, but its task file requires %s", name, asked, used)
    return {
        "library": f"lm-eval {lm_evaluation.version()}",
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "device": str(model.device.type),
        "add_bos_token": config.add_bos_token,
        "seed": config.seed,
        "limit": config.limit,
        "tasks": tasks,
        **({"in_context": {**as_dict(shown), "tasks": answerer.groups}} if answerer is not None else {}),
    }


def _figures(name: str, report: dict[str, Any], loaded: LoadedBenchmark) -> dict[str, Any]:
    """Converts the library's report on one benchmark to the format of this package."""
    children = sorted(task for task in report["n-samples"] if task != name)
    if not children:
        return _one(name, report)
    subtasks = {task: _one(task, report) for task in children}
    group = report["results"].get(name) if loaded.is_group else None
    questions = sum(figures["questions"] for figures in subtasks.values())
    if group is None or not _metrics(group):
        # A tag has no score of its own, so use the mean of its tasks.
        mean = sum(figures["accuracy"] for figures in subtasks.values()) / len(subtasks)
        metric = next(iter(subtasks.values()))["metric"]
        metrics = {metric: {"value": mean, "stderr": None}}
    else:
        metrics = _metrics(group)
    shots = {figures["shots"] for figures in subtasks.values()}
    return {
        "shots": shots.pop() if len(shots) == 1 else None,
        "questions": questions,
        **_main_metric(metrics),
        "metrics": metrics,
        "subtasks": subtasks,
    }


def _one(name: str, report: dict[str, Any]) -> dict[str, Any]:
    metrics = _metrics(report["results"][name])
    return {
        "shots": report["n-shot"].get(name),
        "questions": report["n-samples"][name]["effective"],
        **_main_metric(metrics),
        "metrics": metrics,
        "subtasks": {},
    }


def _metrics(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """``acc,none`` and ``acc_stderr,none`` as ``acc: {value, stderr}``; other filters keep their name."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in result.items():
        name, _, variant = key.partition(",")
        if key in _NOT_METRICS or not variant or name.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = result.get(f"{name}_stderr,{variant}")
        known = float(error) if isinstance(error, (int, float)) and not math.isnan(error) else None
        label = name if variant == "none" else f"{name} ({variant})"
        metrics[label] = {"value": float(value), "stderr": known}
    return metrics


def _main_metric(metrics: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    name = next((name for name in _PREFERRED if name in metrics), None) or next(iter(metrics))
    return {"metric": name, "accuracy": metrics[name]["value"], "stderr": metrics[name]["stderr"]}
