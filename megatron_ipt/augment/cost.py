"""Cost model of the stage: every text and pair is rendered once. The rate of one core is an assumption."""

from __future__ import annotations

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.stages import AUGMENTED, CHAINS
from megatron_ipt.stages.costs import Estimate, PairedTexts, Planning, StageCost

MB_PER_SECOND = 20.0


def cost(config: AugmentConfig, planning: Planning) -> Estimate:
    """Time and storage."""
    size: PairedTexts = planning.inputs[CHAINS]
    return Estimate(
        costs=(StageCost.on_cores("augment", size.tokens, planning.machine.cores, MB_PER_SECOND),),
        makes={AUGMENTED: size},
        storage_gb={"augment": planning.shard_gb(size.tokens)},
    )
