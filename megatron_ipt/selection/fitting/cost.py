"""Cost model: a few epochs of a small model over the sample, and the folder that it leaves."""

from __future__ import annotations

from megatron_ipt.selection.cost import forward_flops, shape_of
from megatron_ipt.selection.fitting.config import FittingConfig
from megatron_ipt.selection.proxy.cost import in_fp32
from megatron_ipt.stages import PROXY_SCORES, SCORER
from megatron_ipt.stages.costs import Documents, Estimate, Planning, StageCost

_FORWARD_AND_BACKWARD = 3
_BYTES = 4


def cost(config: FittingConfig, planning: Planning) -> Estimate:
    """Epochs over the documents of the proxy run, in fp32."""
    documents: Documents = planning.inputs[PROXY_SCORES]
    shape = shape_of(config.trunk)
    of_token = forward_flops(config.trunk, config.seq_length)
    if shape is None or of_token is None:
        return Estimate((StageCost.unknown("fitting", "the sizes of its model are not here"),), {SCORER: None})
    tokens = documents.documents * min(documents.tokens_per_document, config.seq_length)
    passes = (_FORWARD_AND_BACKWARD * (1 - config.held_out) + config.held_out) * config.epochs
    flops = of_token * tokens * (passes if config.train_trunk else 1)
    sizes, vocab_size = shape
    parameters = sizes.parameter_count(vocab_size).total
    return Estimate(
        costs=(in_fp32("fitting", flops, min(1, planning.machine.gpus), planning),),
        makes={SCORER: of_token},
        storage_gb={"fitting": parameters * _BYTES / 1e9},
        facts={"fitting": {"flops": flops, "documents": documents.documents, "parameters": parameters}},
    )
