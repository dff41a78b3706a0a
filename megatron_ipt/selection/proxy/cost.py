"""Cost model: forward and backward passes of a small model in fp32, and what they leave on disk."""

from __future__ import annotations

from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.selection.cost import forward_flops
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.selection.proxy.work import passes
from megatron_ipt.stages import DOCUMENTS, PROXY_SCORES
from megatron_ipt.stages.costs import Documents, Estimate, Planning, StageCost
from megatron_ipt.stages.readable import compact

_TARGETS = 1000
"""Target texts where their number is not known yet (an assumption)."""
_BYTES_PER_ROW = 24
FP32_SHARE = 1 / 16
"""Peak in fp32, without tensor cores, as a share of theirs in bf16 (data sheets: A100 1/16, H100 1/15)."""
FP32_EFFICIENCY = 0.5
"""Of that peak (an assumption: matrix products of small models, and attention that is not fused)."""


def cost(config: ProxyConfig, planning: Planning) -> Estimate:
    """Passes of all runs, and the size of the draw."""
    corpus: Documents = planning.inputs[DOCUMENTS]
    tokens = min(corpus.tokens_per_document, config.seq_length)
    documents = min(config.documents, int(corpus.documents)) if corpus.documents else config.documents
    targets = int(planning.counts.get("target_documents", _TARGETS))
    forwards = passes(config.steps, config.batch_documents, documents, config.score_every, targets)
    runs = len(config.starts) * config.outer_steps
    of_pass = forward_flops(config.starts[0], config.seq_length)
    flops = None if of_pass is None else of_pass * tokens * forwards * runs
    sampled = Documents(documents, corpus.tokens_per_document)
    return Estimate(
        costs=(_time(config, flops, planning),),
        makes={PROXY_SCORES: sampled},
        storage_gb={"proxy": planning.shard_gb(sampled.tokens) + documents * _BYTES_PER_ROW * (runs + 1) / 1e9},
        data=f"{compact(documents)} documents scored in {runs} {'run' if runs == 1 else 'runs'}",
        facts={"proxy": {"flops": flops, "documents": documents, "runs": runs, "forward_passes": forwards * runs}},
    )


def _time(config: ProxyConfig, flops: float | None, planning: Planning) -> StageCost:
    if flops is None:
        return StageCost.unknown("proxy", "the sizes of its model are not here")
    return in_fp32("proxy", flops, min(config.ranks, planning.machine.gpus), planning)


def in_fp32(name: str, flops: float, gpus: int, planning: Planning) -> StageCost:
    """Time of so many operations in fp32."""
    hours = flops / (gpu_named(planning.machine.gpu).peak_flops("bf16") * FP32_SHARE * FP32_EFFICIENCY) / 3600
    return StageCost(name, "gpu", gpus, hours / max(gpus, 1), hours, f"{flops:.1e} FLOP in fp32")
