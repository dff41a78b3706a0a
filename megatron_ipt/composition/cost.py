"""Cost model: a pass of the encoder, a search of everything against everything, and two passes of the filter.

Contexts, not paragraphs, are what costs: every paragraph gets a context of up to ``seq_length`` tokens, so the filter
reads the corpus several times over. ``queries`` bounds that.
"""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.errors import InputError, UserError
from megatron_ipt.files import read_json
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.models.hugging_face_config import config_file, read_model_config
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.stages import DOCUMENTS, TOKENS
from megatron_ipt.stages.costs import Documents, Estimate, Planning, StageCost, TokenData
from megatron_ipt.stages.readable import compact

EFFICIENCY = 0.5
"""Fraction of the speed of a bare forward pass: short texts, padded."""
FILL = 0.8
"""Of ``seq_length`` that a context fills."""
KEPT = 0.75
"""Of the contexts; PICL drops 24 % (arXiv:2305.09137)."""
EXACT_GFLOPS = 12.0
"""Of an exact search on one core: 3,784 queries a second against 40,000 vectors of 384."""
IVF_QUERIES = 1_000.0
"""A second on one core, against millions of vectors; an assumption."""


def gpus_per_task(config: CompositionConfig) -> int:
    """GPUs that one process needs by default."""
    if config.filter.wanted() and config.filter.engine == "megatron":
        return config.filter.megatron.ranks()
    if config.filter.wanted() and config.filter.engine == "tensorrt_llm":
        return config.filter.tensorrt_llm.tensor_parallel_size
    return 0 if config.encoder.device == "cpu" else 1


def cost(config: CompositionConfig, planning: Planning) -> Estimate:
    """Time and storage of the steps, and the size of the token data with rows."""
    documents: Documents = planning.inputs[DOCUMENTS]
    tokens: TokenData = planning.inputs[TOKENS]
    counts = planning.counts
    length = config.paragraph.tokens * 0.75
    number = float(counts["paragraphs"]) if counts else float(round(documents.tokens / length))
    contexts = float(counts["contexts"]) if counts else min(number, float(config.queries or number))
    row_tokens = float(counts["row_tokens"]) if counts else contexts * KEPT * config.seq_length * FILL
    width, parameters = _encoder(config)
    costs = [_pass("vectors", 2 * parameters * documents.tokens if parameters else None, planning)]
    exact = number <= config.search.exact_up_to
    seconds = contexts * number * 2 * width / (EXACT_GFLOPS * 1e9) if exact else contexts / IVF_QUERIES
    cores = max(1, planning.machine.cores)
    basis = "exact search" if exact else f"IVF, {IVF_QUERIES:,.0f} queries/s per core"
    costs.append(StageCost("composition neighbours", "cpu", cores, seconds / cores / 3600, 0.0, basis))
    if config.filter.wanted():
        read = number * length + contexts * config.seq_length * FILL
        costs.append(_pass("filter", _filter_flops(config, read), planning))
    disk = (number * (width * 4 + length * 6) + contexts * (config.search.candidates + config.neighbours) * 16) / 1e9
    full = 0.0 if config.share == 1 else tokens.tokens
    return Estimate(
        costs=tuple(costs),
        makes={TOKENS: TokenData(full + row_tokens, tokens.vocab_size)},
        storage_gb={"composition": disk + row_tokens * 5 / 1e9},
        data=f"{compact(number)} paragraphs, {compact(row_tokens)} tokens in contexts",
        facts={"data": {"paragraphs": number, "row_tokens": row_tokens}},
    )


def _encoder(config: CompositionConfig) -> tuple[int, float | None]:
    """(dimension, parameters of the layers); the latter None where the folder is not here."""
    path = Path(config.encoder.model) / "config.json"
    try:
        found = read_json(path)
        width, layers = int(found["hidden_size"]), int(found["num_hidden_layers"])
        inner = int(found.get("intermediate_size", 4 * width))
    except (UserError, KeyError, TypeError, ValueError):
        return 768, None
    return width, layers * (4 * width * width + 2 * width * inner)


def _filter_flops(config: CompositionConfig, tokens: float) -> float | None:
    model = config.filter.generation.model
    if not model or not config_file(model).is_file():
        return None
    try:
        sizes, vocab_size = read_model_config(model)
    except InputError:
        return None
    # A third of what training takes: the forward pass alone.
    return flops_per_token(resolve_shape({}, sizes), vocab_size, config.seq_length) / 3 * tokens


def _pass(name: str, flops: float | None, planning: Planning) -> StageCost:
    if flops is None:
        return StageCost.unknown(f"composition {name}", "the sizes of its model are not here")
    gpu, gpus = gpu_named(planning.machine.gpu), planning.machine.gpus
    hours = flops / (gpu.peak_flops("bf16") * gpu.kernel_share["bf16"] * EFFICIENCY) / 3600
    return StageCost(
        f"composition {name}", "gpu", gpus, hours / gpus, hours, f"{flops:.1e} FLOP, a forward pass in bf16"
    )
