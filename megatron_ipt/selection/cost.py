"""Cost models: scoring is a forward pass over the corpus with each model, selection one copy of what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.models.hugging_face_config import config_file, read_model_config
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.selection.config import LEARNED, ScorerConfig, ScoringConfig, SelectionConfig
from megatron_ipt.selection.fitting.learned import TRUNK
from megatron_ipt.selection.rows import ROW
from megatron_ipt.stages import DOCUMENTS, SCORER, SCORES, TOKENS
from megatron_ipt.stages.costs import Documents, Estimate, Planning, StageCost
from megatron_ipt.stages.readable import compact

EFFICIENCY = 0.9
"""Fraction of the speed of a bare forward pass."""
MB_PER_SECOND = 140.0
"""Of text that is read and, where it is kept, written again, on one core."""
_MANY_PASSES = 4
"""Passes over the same text beyond which it teaches less and less (arXiv:2305.16264)."""
_SEQ_LENGTH = 4096


def scoring_cost(config: ScoringConfig, planning: Planning) -> Estimate:
    """2 N FLOP for each token under each scorer, and attention."""
    documents: Documents = planning.inputs[DOCUMENTS]
    costs, facts = forward_passes(config.scorers, documents.tokens, planning)
    return Estimate(
        costs=costs,
        makes={SCORES: documents},
        storage_gb={"scores": documents.documents * ROW.itemsize * len(config.scorers) / 1e9},
        facts={"scoring": facts},
    )


def forward_passes(
    scorers: Mapping[str, ScorerConfig], tokens: float, planning: Planning
) -> tuple[tuple[StageCost, ...], dict[str, Any]]:
    """(time of each scorer, figures by scorer) for so many tokens."""
    costs, facts = [], {}
    for name, scorer in scorers.items():
        flops = flops_of(scorer, tokens)
        if scorer.engine == LEARNED and not scorer.generation.model and planning.inputs.get(SCORER):
            flops = planning.inputs[SCORER] * tokens
        facts[name] = {"flops": flops, "tokens": tokens}
        costs.append(_time(f"scoring {name}", flops, planning))
    return tuple(costs), facts


def flops_of(scorer: ScorerConfig, tokens: float) -> float | None:
    """Floating-point operations to score ``tokens`` tokens; None if the model's sizes are not here."""
    window = min(scorer.seq_length or _SEQ_LENGTH, scorer.generation.context_length)
    model = scorer.generation.model
    of_token = forward_flops(f"{model}/{TRUNK}" if scorer.engine == LEARNED else model, window)
    return None if of_token is None else of_token * tokens


def forward_flops(model: str, seq_length: int) -> float | None:
    """Floating-point operations of a forward pass per token; None if the sizes of the Hugging Face folder ``model`` are
    not here."""
    shape = shape_of(model)
    # A third of what training takes.
    return None if shape is None else flops_per_token(*shape, seq_length) / 3


def shape_of(model: str) -> tuple[ModelShape, int] | None:
    """(shape, vocabulary) of a Hugging Face folder; None if its sizes are not here or its family is unknown."""
    if not model or not config_file(model).is_file():
        return None
    try:
        sizes, vocab_size = read_model_config(model)
    except InputError:
        return None
    return resolve_shape({}, sizes), vocab_size


def _time(name: str, flops: float | None, planning: Planning) -> StageCost:
    if flops is None:
        return StageCost.unknown(name, "the sizes of its model are not here")
    gpu, gpus = gpu_named(planning.machine.gpu), planning.machine.gpus
    hours = flops / (gpu.peak_flops("bf16") * gpu.kernel_share["bf16"] * EFFICIENCY) / 3600
    return StageCost(name, "gpu", gpus, hours / gpus, hours, f"{flops:.1e} FLOP, a forward pass in bf16")


def cost(config: SelectionConfig, planning: Planning) -> Estimate:
    """Time to copy, and the size of what is kept."""
    documents: Documents = planning.inputs[DOCUMENTS]
    counts = planning.counts
    number = counts["documents"] if counts else documents.documents * config.share
    kept = replace(documents, documents=float(number))
    return Estimate(
        costs=(StageCost.on_cores("selection", documents.tokens, config.workers, MB_PER_SECOND),),
        makes={DOCUMENTS: kept},
        storage_gb={"selection": planning.shard_gb(kept.tokens)},
        data=f"{compact(kept.documents)} documents kept, {compact(kept.tokens)} tokens",
        facts={"data": {"kept_documents": kept.documents, "kept_tokens": kept.tokens}},
        notes=tuple(_notes(kept.tokens, planning)),
    )


def _notes(tokens: float, planning: Planning) -> Iterator[str]:
    wanted = planning.demands[TOKENS].tokens if TOKENS in planning.demands else None
    if wanted and tokens and wanted > _MANY_PASSES * tokens:
        yield (
            f"Training sees the kept text about {math.ceil(wanted / tokens):,} times, more than {_MANY_PASSES}: raise "
            "selection.share, or add text."
        )
