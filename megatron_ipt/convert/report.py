"""What the page about a run shows of this room: that there is a model, and how large it is."""

from __future__ import annotations

from megatron_ipt.stages.page import Part, StageRecord, Step
from megatron_ipt.stages.readable import compact


def part(stage: StageRecord) -> Part:
    """The exported model on the page: no more than a card."""
    if not stage.counts:
        return Part()
    parameters = compact(stage.counts.get("parameters"))
    return Part(step=Step("from the checkpoint", parameters, "parameters", "Hugging Face folder"))
