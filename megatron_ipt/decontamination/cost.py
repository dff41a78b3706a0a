"""Cost model of the stage: every text and pair is compared once. The rate of one core was measured with 20,000 test
questions, reading and writing shards included."""

from __future__ import annotations

from typing import Any

from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.stages.costs import Estimate, Planning, StageCost

MB_PER_SECOND = 20.0


def cost(config: DecontaminateConfig, planning: Planning) -> Estimate:
    """Time and storage; what is removed is too little to count."""
    tokens = float(sum(_tokens(size) for size in planning.inputs.values()))
    return Estimate(
        costs=(StageCost.on_cores("decontaminate", tokens, planning.machine.cores, MB_PER_SECOND),),
        makes=dict(planning.inputs),
        storage_gb={"decontaminate": planning.shard_gb(tokens)},
    )


def _tokens(size: Any) -> float:
    return float(size.tokens)
