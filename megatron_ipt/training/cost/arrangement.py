"""One way to lay a model out on GPUs, and the parameters that each GPU then holds. Exact counts, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.models.families import ModelShape


@dataclass(frozen=True)
class Arrangement:
    """World size cut up, and the batch.

    Attributes:
        tensor, pipeline, context, data, expert: parallel sizes; ``tensor * pipeline * context * data`` GPUs.
        virtual: model chunks of a pipeline stage; 1 without interleaving.
        micro_batch_size: sequences of one forward pass.
        global_batch_size: sequences of an optimizer step.
        sequence_parallel: norms and residuals are split over the tensor-parallel ranks.
        recompute: ``none``, ``selective`` (attention) or ``full``.
        distributed_optimizer: optimizer state is spread over the data- and context-parallel ranks.
        overlap: gradients are reduced and parameters gathered behind the computation.
    """

    tensor: int
    pipeline: int
    data: int
    micro_batch_size: int
    global_batch_size: int
    context: int = 1
    expert: int = 1
    virtual: int = 1
    sequence_parallel: bool = True
    recompute: str = "none"
    distributed_optimizer: bool = True
    overlap: bool = True

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def micro_batches(self) -> int:
        """Forward passes of one data-parallel rank in a step."""
        return self.global_batch_size // (self.micro_batch_size * self.data)

    def label(self) -> str:
        """``TP2 PP1 DP32 mbs4``, with what differs from the plain case."""
        parts = [f"TP{self.tensor}", f"PP{self.pipeline}"]
        if self.virtual > 1:
            parts.append(f"VP{self.virtual}")
        if self.context > 1:
            parts.append(f"CP{self.context}")
        if self.expert > 1:
            parts.append(f"EP{self.expert}")
        parts += [f"DP{self.data}", f"mbs{self.micro_batch_size}"]
        if self.recompute != "none":
            parts.append(f"recompute:{self.recompute}")
        return " ".join(parts)


@dataclass(frozen=True)
class StageParameters:
    """Parameters on one GPU of a pipeline stage; of experts separately, as fewer ranks share their optimizer state."""

    dense: float
    experts: float


def stage_parameters(
    shape: ModelShape, padded_vocab_size: int, arrangement: Arrangement, stage: int
) -> StageParameters:
    """Parameters on one GPU of pipeline stage ``stage`` (from 0)."""
    count = shape.parameter_count(padded_vocab_size)
    layers = count.num_layers / arrangement.pipeline
    dense = layers * (count.layer.split / arrangement.tensor + count.layer.whole)
    experts = layers * count.layer.experts / (arrangement.tensor * arrangement.expert)
    if stage == 0:
        dense += count.embedding / arrangement.tensor
    if stage == arrangement.pipeline - 1:
        # A tied output layer is a copy of the embedding, unless both are on the same stage.
        output_layer = count.output_layer or (count.embedding if stage != 0 else 0)
        dense += count.final_norm + output_layer / arrangement.tensor
    return StageParameters(dense, experts)
