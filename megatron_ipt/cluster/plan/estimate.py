"""``plan``: what a recipe costs before it runs. Pure arithmetic on the recipe; the models are in the modules it calls.

Rates of the CPU stages and the shares of ideal speed that are planned with are stated in the result, not hidden.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_ipt.cluster.plan.hardware import Gpu, gpu_named
from megatron_ipt.cluster.plan.search import Candidate, Problem, recipe_arrangement, search, smallest_that_fits
from megatron_ipt.cluster.plan.speed import seconds_per_request
from megatron_ipt.cluster.plan.volume import BYTES_PER_COMPRESSED, CHARACTERS_PER_TOKEN, Assumptions, Volume, volume_of
from megatron_ipt.errors import RecipeError
from megatron_ipt.files import read_json
from megatron_ipt.models.config import hugging_face_vocabulary
from megatron_ipt.models.families import padded_vocabulary
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.recipe import Recipe
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.tokenizer_readers import read_sentencepiece, read_tokenizer_json
from megatron_ipt.tokens.dataset.description import DATASET

SYNTHESIS_EFFICIENCY = 0.65
"""Share of a full engine's speed that a whole run reaches: loading, ragged ends, refills."""
TRAINING_EFFICIENCY = 0.92
"""Share of the time in which a long run trains: the rest is checkpoints, validation, restarts."""
CPU_RATES = {"corpus": 20.0, "augment": 20.0, "tokens": 3.0, "merge": 200.0}
"""MB of text a second and core (merge: of the one process that joins parts)."""
CHECKPOINT_BYTES = {"bf16": 14, "fp8": 14, "fp32": 12}
"""A parameter in a checkpoint: its weight, and main weight and two moments in fp32."""


@dataclass(frozen=True)
class StageCost:
    """Time of one stage: ``hours`` on ``workers`` GPUs or CPU cores."""

    stage: str
    resource: str
    workers: int
    hours: float
    gpu_hours: float
    basis: str


@dataclass(frozen=True)
class Plan:
    """All figures, as ``--json`` prints them."""

    recipe: str
    gpu: str
    gpus: int
    precision: str
    model: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    best: dict[str, Any] | None
    of_recipe: dict[str, Any] | None
    alternatives: list[dict[str, Any]]
    stages: list[StageCost]
    storage_gb: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    recipe: Recipe,
    gpus: int,
    gpu: str = "h100",
    gpus_per_node: int = 8,
    cpus: int = 64,
    vocab_size: int | None = None,
    assumptions: Assumptions | None = None,
) -> Plan:
    """Plans ``recipe`` on ``gpus`` of a kind and ``cpus`` cores.

    Raises:
        RecipeError: the GPU is unknown or cannot do the recipe's arithmetic, or the vocabulary cannot be told.
        UserError: the amount of text cannot be told.
    """
    if gpus < 1 or cpus < 1 or gpus_per_node < 1:
        raise RecipeError("--gpus, --gpus-per-node and --cpus must be 1 or more")
    device, notes = gpu_named(gpu), list[str]()
    config = recipe.training
    precision = "bf16" if config.precision == "auto" else config.precision
    if precision != "fp32":
        device.peak_flops(precision)
    shape = config.model.shape()
    vocabulary = vocab_size or vocabulary_of(recipe)
    padded = padded_vocabulary(vocabulary, config.model.make_vocab_size_divisible_by)
    seq_length = config.seq_length()
    tokens_per_step = config.global_batch_size * seq_length
    wanted = config.tokens if config.tokens is not None else config.steps and config.steps * tokens_per_step
    volume = volume_of(recipe, wanted, assumptions or Assumptions())
    train_tokens = wanted or volume.data_tokens * (config.epochs or 1.0)
    steps = config.steps or math.ceil(train_tokens / tokens_per_step)
    if config.batch_ramp.start is not None:
        notes.append("The batch ramp-up is left out: steps are counted at the full batch size.")

    problem = Problem(
        shape, padded, seq_length, config.global_batch_size, precision,
        config.model.make_vocab_size_divisible_by, device, gpus, gpus_per_node,
    )  # fmt: skip
    found = search(problem)
    if not found:
        enough = smallest_that_fits(problem)
        notes.append(
            f"Nothing fits on {gpus} {device.name}"
            + (f"; on {enough} it does." if enough else ", nor on any doubling of them: check global_batch_size.")
        )
    own = recipe_arrangement(config, gpus)
    if own is None:
        notes.append(
            f"The recipe's own parallel sizes and batch cannot be shared out on {gpus} GPUs: see "
            "training.parallel, micro_batch_size and global_batch_size."
        )
    mine = problem.measure(own) if own else None
    chosen = found[0] if found else mine
    parameters = shape.parameters(padded)
    stages = _stage_costs(recipe, volume, parameters, steps, chosen, device, gpus, cpus)
    return Plan(
        recipe=recipe.name,
        gpu=device.name,
        gpus=gpus,
        precision=precision,
        model={
            "parameters": parameters,
            "active_parameters": shape.parameters(padded, active_only=True),
            "vocab_size": vocabulary,
            "padded_vocab_size": padded,
            "flops_per_token": flops_per_token(shape, padded, seq_length),
        },
        training={
            "tokens": steps * tokens_per_step,
            "steps": steps,
            "tokens_per_step": tokens_per_step,
            "seq_length": seq_length,
            "passes": steps * tokens_per_step / volume.data_tokens,
        },
        data=volume.as_dict(),
        best=_describe(found[0], problem) if found else None,
        of_recipe=_describe(mine, problem) if mine else None,
        alternatives=[_describe(candidate, problem) for candidate in _different(found)],
        stages=stages,
        storage_gb=_storage(recipe, volume, parameters, padded, precision),
        notes=notes,
    )


def vocabulary_of(recipe: Recipe) -> int:
    """Vocabulary size of the recipe's tokenizer, as far as it can be told without running a stage.

    Raises:
        RecipeError: the tokenizer is not here.
    """
    dataset = Path(recipe.output_dir) / "tokens" / DATASET
    if dataset.exists():
        return int(read_json(dataset)["vocab_size"])
    settings = recipe.tokens.tokenizer
    if settings.kind == "train":
        return settings.vocab_size
    path = Path(settings.path)
    if (path / "tokenizer.json").is_file():
        return int(read_tokenizer_json(path / "tokenizer.json").get_vocab_size(with_added_tokens=True))
    if path.is_file():
        return int(read_sentencepiece(path.read_bytes(), path).vocab_size())
    if recipe.training.model.from_hf:
        return hugging_face_vocabulary(recipe.training.model.from_hf)
    raise RecipeError(f"tokens.tokenizer.path: {path} is not here; pass --vocab-size to plan without it")


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


def _different(found: list[Candidate], most: int = 4) -> list[Candidate]:
    """The next best ones, one for each (TP, PP)."""
    seen, others = set(), []
    for candidate in found:
        key = (candidate.arrangement.tensor, candidate.arrangement.pipeline, candidate.arrangement.context)
        if key not in seen:
            seen.add(key)
            others.append(candidate)
    return others[1 : most + 1]


def _stage_costs(
    recipe: Recipe,
    volume: Volume,
    parameters: int,
    steps: int,
    chosen: Candidate | None,
    gpu: Gpu,
    gpus: int,
    cpus: int,
) -> list[StageCost]:
    raw_mb = volume.tokens * CHARACTERS_PER_TOKEN / 1e6
    lane_mb = volume.texts * volume.tokens_per_text * CHARACTERS_PER_TOKEN / 1e6
    pair_mb = volume.pair_tokens * CHARACTERS_PER_TOKEN / 1e6
    all_mb = volume.data_tokens * CHARACTERS_PER_TOKEN / 1e6

    def on_cpus(stage: str, megabytes: float, cores: int, rate: float) -> StageCost:
        return StageCost(stage, "cpu", cores, megabytes / rate / cores / 3600, 0.0, f"{rate:g} MB/s a core")

    costs = [on_cpus("corpus", raw_mb, 1, CPU_RATES["corpus"])]
    if source_named(recipe.synthesis.engine).kind == "model":
        costs.append(_synthesis_cost(recipe, volume, gpu, gpus))
    else:
        costs.append(on_cpus("synthesis", lane_mb, cpus, CPU_RATES["corpus"]))
    costs += [
        on_cpus("augment", lane_mb + pair_mb, cpus, CPU_RATES["augment"]),
        on_cpus("tokens", all_mb, cpus, CPU_RATES["tokens"]),
        on_cpus("merge", all_mb, 1, CPU_RATES["merge"]),
    ]
    if chosen is not None:
        hours = steps * chosen.time.total / TRAINING_EFFICIENCY / 3600
        basis = f"{chosen.time.total:.3f} s a step, training {TRAINING_EFFICIENCY:.0%} of the time"
        costs.append(StageCost("training", "gpu", gpus, hours, hours * gpus, basis))
    costs.append(StageCost("export", "cpu", 1, 2 * parameters / 0.3e9 / 3600, 0.0, "0.3 GB/s of weights"))
    return costs


def _synthesis_cost(recipe: Recipe, volume: Volume, gpu: Gpu, gpus: int) -> StageCost:
    """All rounds of all chains; what an earlier round of a chain has left in the cache is read, not computed."""
    generation = recipe.synthesis.generation
    output = min(generation.max_new_tokens, volume.pairs / max(volume.texts, 1) * volume.pair_tokens / volume.pairs)
    frame = 20.0
    new = volume.tokens_per_text + frame
    rounds = recipe.synthesis.chain_length
    cached = [
        min(earlier * (new + output), max(0.0, generation.context_length - new - output)) for earlier in range(rounds)
    ]
    seconds = sum(seconds_per_request(new, output, prefix) for prefix in cached) / rounds
    replicas = max(1, gpus // recipe.synthesis.tensorrt_llm.tensor_parallel_size)
    gpu_seconds = volume.texts * seconds / gpu.generation / SYNTHESIS_EFFICIENCY
    basis = (
        f"{new:.0f} tokens in, {output:.0f} out, {rounds} round{'s' if rounds > 1 else ''} with prefix reuse, 7-8B "
        f"synthesizer in FP8, {SYNTHESIS_EFFICIENCY:.0%} of ideal speed"
    )
    return StageCost("synthesis", "gpu", replicas, gpu_seconds / replicas / 3600, gpu_seconds / 3600, basis)


def _storage(recipe: Recipe, volume: Volume, parameters: int, padded: int, precision: str) -> dict[str, float]:
    """Gigabytes (1e9 bytes) that each stage leaves; ``tokens_parts`` is there only while the tokens stage runs."""
    ratio = BYTES_PER_COMPRESSED[recipe.compression]
    text = CHARACTERS_PER_TOKEN * ratio / 1e9
    lane = volume.texts * volume.tokens_per_text
    width = 2 if padded <= 1 << 16 else 4
    dataset = (volume.data_tokens * width + volume.documents * 20) / 1e9
    kept = recipe.training.checkpoint.keep_last
    checkpoint = parameters * CHECKPOINT_BYTES[precision] / 1e9
    return {
        "corpus": volume.tokens * text,
        "synthesis": (lane + volume.pair_tokens) * text,
        "augment": (lane + volume.pair_tokens) * text,
        "tokens": dataset,
        "tokens_parts": dataset,
        "checkpoint": checkpoint,
        "checkpoints_kept": checkpoint * (kept + 1 if kept else 1),
        "export": parameters * 2 / 1e9,
    }
