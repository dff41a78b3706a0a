"""Cost model of the stage: pairs that a model generates on GPUs, or that are mined or replayed on cores.

A request to a 7 to 8B synthesizer in FP8 on one H100 is fitted to NVIDIA's TensorRT-LLM v1.0 figures for Llama-3.1-8B
(six pairs of lengths, residuals at most 1.4 %), see :func:`seconds_per_request`; other GPUs are scaled by
:attr:`megatron_ipt.models.hardware.Gpu.generation`. The rate of one core is measured for ``pseudo_labels`` and an
assumption for the others.
"""

from __future__ import annotations

import math

from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.progress import counted
from megatron_ipt.stages import CHAINS, DOCUMENTS
from megatron_ipt.stages.costs import (
    CHARACTERS_PER_TOKEN,
    Documents,
    Estimate,
    PairedTexts,
    Planning,
    StageCost,
    bytes_of_text,
)
from megatron_ipt.stages.readable import compact
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.pair_sources import load_source, source_named

EFFICIENCY = 0.65
"""Fraction of a full engine's speed that a whole run reaches: loading, uneven ends, refilling."""
_FRAME_TOKENS = 20.0
"""Tokens of a prompt besides its text."""


def cost(config: SynthesisConfig, planning: Planning) -> Estimate:
    """Time, storage, and the size of texts and pairs.

    Raises:
        UnknownSize: the pairs are read from files that are not here.
    """
    named = source_named(config.engine)
    kind = named.kind
    if kind == "files":
        size, source = _replayed(config, planning)
    else:
        size, source = _made(config, planning.inputs[DOCUMENTS], planning), ""
    if kind == "model":
        row = _generation(config, size, planning)
    else:
        row = StageCost.on_cores("synthesis", size.text_tokens, planning.machine.cores, named.megabytes_per_second)
    return Estimate(
        costs=(row,),
        makes={CHAINS: size},
        storage_gb={"synthesis": planning.shard_gb(size.tokens)},
        data=f"{compact(size.texts)} texts get {compact(size.pairs)} pairs, {compact(size.pair_tokens)} tokens"
        + (f" ({source})" if source else ""),
        facts={
            "data": {
                "texts": size.texts,
                "tokens_per_text": size.tokens_per_text,
                "pairs": size.pairs,
                "pair_tokens": size.pair_tokens,
            }
        },
    )


def _made(config: SynthesisConfig, documents: Documents, planning: Planning) -> PairedTexts:
    passages = max(1, math.ceil(documents.tokens_per_document * CHARACTERS_PER_TOKEN / config.passage_characters))
    texts = documents.documents * documents.paired_share * passages
    pairs = float(planning.counts.get("pairs", texts * planning.assumptions.pairs_per_text))
    return PairedTexts(texts, documents.tokens_per_document / passages, pairs, planning.assumptions.tokens_per_pair)


def _replayed(config: SynthesisConfig, planning: Planning) -> tuple[PairedTexts, str]:
    assumed = planning.assumptions
    per_text = assumed.tokens_per_document + assumed.pairs_per_text * assumed.tokens_per_pair
    size = bytes_of_text(lambda: load_source(config.engine)(config, 0).files())
    if planning.counts:
        texts, source = float(planning.counts["texts"]), "texts as counted by the synthesis stage"
    elif size is not None:
        texts, source = size / CHARACTERS_PER_TOKEN / per_text, "size of synthesis.replay.inputs"
    else:
        beginning = planning.begin("synthesis.replay.inputs is not here")
        texts, source = beginning.documents, beginning.source
    pairs = float(planning.counts.get("pairs", texts * assumed.pairs_per_text))
    return PairedTexts(texts, assumed.tokens_per_document, pairs, assumed.tokens_per_pair), source


def _generation(config: SynthesisConfig, size: PairedTexts, planning: Planning) -> StageCost:
    """All rounds of all chains; what an earlier round of a chain has left in the cache is read, not computed."""
    generation = config.generation
    output = min(generation.max_new_tokens, size.pairs / max(size.texts, 1) * size.tokens_per_pair)
    new = size.tokens_per_text + _FRAME_TOKENS
    rounds = config.chain_length
    cached = [
        min(earlier * (new + output), max(0.0, generation.context_length - new - output)) for earlier in range(rounds)
    ]
    seconds = sum(seconds_per_request(new, output, prefix) for prefix in cached) / rounds
    replicas = max(1, planning.machine.gpus // config.tensorrt_llm.tensor_parallel_size)
    gpu_seconds = size.texts * seconds / gpu_named(planning.machine.gpu).generation / EFFICIENCY
    basis = (
        f"{new:.0f} tokens in, {output:.0f} out, {counted(rounds, 'round')} with prefix reuse, 7-8B synthesizer in "
        f"FP8, {EFFICIENCY:.0%} of ideal speed"
    )
    return StageCost("synthesis", "gpu", replicas, gpu_seconds / replicas / 3600, gpu_seconds / 3600, basis)


def seconds_per_request(new_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
    """GPU seconds of one request on a fully loaded H100.

    Args:
        new_tokens: of the prompt that are not in the cache.
        output_tokens: generated.
        cached_tokens: of the prompt that an earlier round of the chain left in the cache: read, not computed.
    """
    context = cached_tokens + new_tokens + output_tokens / 2
    return 13.8e-6 * new_tokens + 13.4e-6 * output_tokens + 0.026e-6 * output_tokens * context
