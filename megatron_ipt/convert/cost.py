"""Cost model of the stage: weights are streamed from the checkpoint to the folder at the speed of the storage."""

from __future__ import annotations

from megatron_ipt.convert.config import ExportConfig
from megatron_ipt.stages import CHECKPOINTS, MODEL
from megatron_ipt.stages.costs import Estimate, Planning, StageCost, Weights

GB_PER_SECOND = 0.3
"""An assumption."""
_BYTES = {"fp32": 4}
"""Of a parameter where it is not 2."""


def cost(config: ExportConfig, planning: Planning) -> Estimate:
    """Time and storage."""
    weights: Weights = planning.inputs[CHECKPOINTS]
    size = weights.parameters * _BYTES.get(config.dtype, 2)
    hours = size / (GB_PER_SECOND * 1e9) / 3600
    return Estimate(
        costs=(StageCost("export", "cpu", 1, hours, 0.0, f"{GB_PER_SECOND:g} GB/s of weights"),),
        makes={MODEL: weights},
        storage_gb={"export": size / 1e9},
    )
