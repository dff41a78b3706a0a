"""Cost model of the stage: the best layout on the GPUs there are, the recipe's own one, time and checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.models.config import hugging_face_vocabulary
from megatron_ipt.models.families import padded_vocabulary
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.stages import CHECKPOINTS, TOKENS
from megatron_ipt.stages.costs import Demand, Estimate, Planning, StageCost, TokenData, Weights
from megatron_ipt.stages.readable import compact, exact
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cost.search import Candidate, Problem, recipe_arrangement, search, smallest_that_fits
from megatron_ipt.training.cost.teacher import TeacherLoad
from megatron_ipt.training.teacher.source import TeacherSource

EFFICIENCY = 0.92
"""Fraction of the time in which a long run trains; the rest is checkpoints, validation and restarts."""
CHECKPOINT_BYTES = {"bf16": 14, "fp8": 14, "fp32": 12}
"""Bytes per parameter in a checkpoint: its weight, and in fp32 the main weight and two moments."""
_ALTERNATIVES = 4
_SHOWN_FRACTION = 0.005
"""Of a step's time, below which a part of it is not shown."""


def demand(config: TrainingConfig) -> dict[str, Demand]:
    """What the training wants of its data: as many tokens as it trains on, and the vocabulary of imported weights."""
    tokens = config.tokens if config.tokens is not None else config.steps and config.steps * _tokens_per_step(config)
    vocab_size = hugging_face_vocabulary(config.model.from_hf) if config.model.from_hf else None
    source = "as much as one pass of the training needs"
    return {TOKENS: Demand(tokens, source, "training.tokens or training.steps", vocab_size)}


def cost(config: TrainingConfig, planning: Planning) -> Estimate:
    """Layouts, time and checkpoints.

    Raises:
        RecipeError: the GPUs lack the recipe's precision.
    """
    data: TokenData = planning.inputs[TOKENS]
    problem = _problem(config, data.vocab_size, planning)
    wanted = demand(config)[TOKENS].tokens
    tokens_per_step = _tokens_per_step(config)
    steps = config.steps or math.ceil((wanted or data.tokens * (config.epochs or 1.0)) / tokens_per_step)
    found = search(problem)
    own = recipe_arrangement(config, problem.gpus)
    mine = problem.measure(own) if own else None
    parameters = problem.shape.parameters(problem.padded_vocab_size)
    facts = {
        "precision": problem.precision,
        "model": {
            "parameters": parameters,
            "active_parameters": problem.shape.parameters(problem.padded_vocab_size, active_only=True),
            "vocab_size": data.vocab_size,
            "padded_vocab_size": problem.padded_vocab_size,
            "flops_per_token": flops_per_token(problem.shape, problem.padded_vocab_size, problem.seq_length),
        },
        "training": {
            "tokens": steps * tokens_per_step,
            "steps": steps,
            "tokens_per_step": tokens_per_step,
            "seq_length": problem.seq_length,
            "passes": steps * tokens_per_step / data.tokens if data.tokens else None,
        },
        **({} if problem.teacher is None else {"teacher": _describe_teacher(problem.teacher, problem.seq_length)}),
        "best": _describe(found[0], problem) if found else None,
        "of_recipe": _describe(mine, problem) if mine else None,
        "alternatives": [_describe(candidate, problem) for candidate in _different(found)],
    }
    chosen = found[0] if found else mine
    checkpoint = parameters * CHECKPOINT_BYTES[problem.precision] / 1e9
    kept = config.checkpoint.keep_last
    return Estimate(
        costs=(_time(chosen, steps, problem.gpus),),
        makes={CHECKPOINTS: Weights(parameters)},
        storage_gb={"checkpoint": checkpoint, "checkpoints_kept": checkpoint * (kept + 1 if kept else 1)},
        lines=tuple(_lines(facts)),
        facts=facts,
        notes=tuple(_notes(config, problem, bool(found), own is not None)),
    )


def _problem(config: TrainingConfig, vocab_size: int, planning: Planning) -> Problem:
    precision = "bf16" if config.precision == "auto" else config.precision
    gpu, machine, divisor = gpu_named(planning.machine.gpu), planning.machine, config.model.make_vocab_size_divisible_by
    if precision != "fp32" and precision not in gpu.precisions():
        raise RecipeError(f"training.precision: {gpu.name} has no {precision}; it has {', '.join(gpu.precisions())}")
    return Problem(
        config.model.shape(), padded_vocabulary(vocab_size, divisor), config.seq_length(), config.global_batch_size,
        precision, divisor, gpu, machine.gpus, machine.gpus_per_node, _teacher(config, precision),
    )  # fmt: skip


def _teacher(config: TrainingConfig, precision: str) -> TeacherLoad | None:
    """The teacher of a distillation, if its files are already there."""
    settings = config.distillation.teacher
    if settings.path is None or not Path(settings.path).is_dir():
        return None
    source = TeacherSource.read(settings)
    wanted = precision if settings.precision == "auto" else settings.precision
    return TeacherLoad(
        source.shape,
        source.vocab_size,
        settings.tensor_model_parallel_size,
        settings.pipeline_model_parallel_size,
        4 if wanted == "fp32" else 2,
    )


def _tokens_per_step(config: TrainingConfig) -> int:
    return config.global_batch_size * config.seq_length()


def _time(chosen: Candidate | None, steps: int, gpus: int) -> StageCost:
    if chosen is None:
        return StageCost.unknown("training", "no layout fits")
    hours = steps * chosen.time.total / EFFICIENCY / 3600
    basis = f"{chosen.time.total:.3f} s per step, training {EFFICIENCY:.0%} of the time"
    return StageCost("training", "gpu", gpus, hours, hours * gpus, basis)


def _notes(config: TrainingConfig, problem: Problem, found: bool, own: bool) -> list[str]:
    notes = []
    if config.batch_ramp.start is not None:
        notes.append("The batch size ramp-up is left out: steps are counted at the full batch size.")
    if not found:
        enough = smallest_that_fits(problem)
        notes.append(
            f"Nothing fits on {problem.gpus} {problem.gpu.name}"
            + (f"; on {enough} it does." if enough else ", nor on any doubling of them: check global_batch_size.")
        )
    if config.distillation.is_on and problem.teacher is None:
        notes.append(
            f"The teacher is left out: there is no {config.distillation.teacher.path} yet, so its size is not known."
        )
    if config.distillation.is_on and (config.distillation.draws_in_rounds or config.distillation.on_policy.fraction):
        notes.append(
            "Responses that the student draws are not counted: the seconds and caches of drawing them, and their "
            "tokens in a step beside those of the data."
        )
    if not own:
        notes.append(
            f"The recipe's own parallel sizes and batch cannot be divided over {problem.gpus} GPUs: see "
            "training.parallel, micro_batch_size and global_batch_size."
        )
    return notes


def _describe(candidate: Candidate, problem: Problem) -> dict[str, Any]:
    arrangement, time = candidate.arrangement, candidate.time
    tokens = arrangement.global_batch_size * problem.seq_length
    rate = tokens / time.total / arrangement.world_size
    precision = "bf16" if problem.precision == "fp32" else problem.precision
    operations = flops_per_token(problem.shape, problem.padded_vocab_size, problem.seq_length)
    return {
        "label": arrangement.label(),
        "layout": asdict(arrangement),
        "memory_gib": candidate.memory.as_dict(),
        "fits": candidate.fits(problem.gpu),
        "step_seconds": time.as_dict(),
        "tokens_per_second_per_gpu": rate,
        "tflops_per_gpu": rate * operations / 1e12,
        "mfu": rate * operations / problem.gpu.peak_flops(precision),
    }


def _describe_teacher(teacher: TeacherLoad, seq_length: int) -> dict[str, Any]:
    return {
        "parameters": teacher.parameters,
        "tensor_model_parallel_size": teacher.tensor,
        "pipeline_model_parallel_size": teacher.pipeline,
        "forward_flops_per_token": teacher.forward_operations(seq_length),
    }


def _different(found: list[Candidate]) -> list[Candidate]:
    """The next best ones, one for each (TP, PP, CP)."""
    first: dict[tuple[int, int, int], Candidate] = {}
    for candidate in found:
        arrangement = candidate.arrangement
        first.setdefault((arrangement.tensor, arrangement.pipeline, arrangement.context), candidate)
    return list(first.values())[1 : _ALTERNATIVES + 1]


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    model, training, active = facts["model"], facts["training"], facts["model"]["active_parameters"]
    passes = "" if training["passes"] is None else f", {training['passes']:.2f} passes over the data"
    lines = [
        (
            "model",
            f"{exact(model['parameters'])} parameters, vocabulary {exact(model['padded_vocab_size'])}"
            + (f", {exact(active)} active" if active != model["parameters"] else "")
            + f", {facts['precision']}",
        ),
        (
            "training",
            f"{compact(training['tokens'])} tokens = {exact(training['steps'])} steps of "
            f"{exact(training['tokens_per_step'])} tokens{passes}",
        ),
    ]
    if "teacher" in facts:
        teacher = facts["teacher"]
        tensor, pipeline = teacher["tensor_model_parallel_size"], teacher["pipeline_model_parallel_size"]
        operations = teacher["forward_flops_per_token"] / model["flops_per_token"]
        lines.append(
            (
                "teacher",
                f"{exact(teacher['parameters'])} parameters, TP{tensor} PP{pipeline}; its forward pass takes "
                f"{operations:.0%} of the student's operations",
            )
        )
    lines += [
        (title, _option(option))
        for title, option in (("best", facts["best"]), ("recipe", facts["of_recipe"]))
        if option is not None
    ]
    if facts["alternatives"]:
        lines.append(("others", "; ".join(_short(option) for option in facts["alternatives"])))
    return lines


def _option(option: dict[str, Any]) -> str:
    memory, seconds = option["memory_gib"], option["step_seconds"]
    fit = "fits" if option["fits"] else "DOES NOT FIT"
    parts = ", ".join(f"{name} {value:.1f}" for name, value in memory.items() if name != "total")
    slow = ", ".join(
        f"{name.replace('_', ' ')} {value / seconds['total']:.0%}"
        for name, value in seconds.items()
        if name != "total" and value / seconds["total"] >= _SHOWN_FRACTION
    )
    return (
        f"{option['label']}: {fit}, {memory['total']:.1f} GiB per GPU ({parts})\n"
        f"{seconds['total']:.3f} s per step ({slow}); {exact(option['tokens_per_second_per_gpu'])} tokens/s, "
        f"{option['tflops_per_gpu']:.0f} TFLOP/s per GPU, MFU {option['mfu']:.0%}"
    )


def _short(option: dict[str, Any]) -> str:
    return f"{option['label']} {option['step_seconds']['total']:.3f} s, {option['memory_gib']['total']:.0f} GiB"
