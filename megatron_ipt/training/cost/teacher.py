"""What a frozen teacher adds to a training step: its weights, what waits for the loss, and a forward pass.

On a GPU (bytes; the teacher is in bf16, or in fp32 beside an fp32 student)::

    weights         parameters / (tensor * pipeline of the teacher), and its output layer / tensor of the student
    hidden states   micro-batches of a step * tokens * hidden size
    logits          tokens of a micro-batch * vocabulary / tensor of the student: the teacher's, and a gradient that is
                    added to that of the next-token loss

All GPUs share its work, so its seconds are those of a third of its operations of training, at the share of peak that
kernels of its width reach, and of half the all-reduces of its tensor parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.models.families import ModelShape, padded_vocabulary
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import GIB, Gpu
from megatron_ipt.training.cost.arrangement import Arrangement, stage_parameters
from megatron_ipt.training.cost.speed import step_time


@dataclass(frozen=True)
class TeacherLoad:
    """A teacher and its layout.

    Attributes:
        bytes_each: of a weight.
    """

    shape: ModelShape
    vocab_size: int
    tensor: int
    pipeline: int
    bytes_each: int

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.vocab_size)

    def forward_operations(self, seq_length: int) -> float:
        """Floating-point operations for one token."""
        return flops_per_token(self.shape, self.vocab_size, seq_length) / 3

    def memory_gib(self, student: Arrangement, padded_vocab_size: int, seq_length: int) -> float:
        """GiB on the fullest GPU, one that computes the loss.

        Args:
            padded_vocab_size: the student's.
        """
        padded = padded_vocabulary(self.vocab_size, self.tensor)
        own = self._arrangement(1, 1)
        stages = (stage_parameters(self.shape, padded, own, stage) for stage in {0, self.pipeline - 1})
        held = max(stage.dense + stage.experts for stage in stages)
        tokens = student.micro_batch_size * seq_length / student.context
        columns = padded_vocab_size / student.tensor
        numbers = (
            held
            + columns * self.shape.hidden_size
            + student.micro_batches * tokens * self.shape.hidden_size
            + 2 * tokens * columns
        )
        return self.bytes_each * numbers / GIB

    def seconds(self, student: Arrangement, seq_length: int, precision: str, gpu: Gpu, gpus_per_node: int) -> float:
        """Of a step."""
        copies = max(1, student.world_size // (self.tensor * self.pipeline))
        # Copies take turns with sequences; the last turn may leave some without one.
        own = self._arrangement(copies, -(-student.global_batch_size // copies))
        padded = padded_vocabulary(self.vocab_size, self.tensor)
        time = step_time(self.shape, padded, seq_length, precision, own, gpu, gpus_per_node)
        # Forward is a third of the operations and half of the all-reduces.
        return time.compute / 3 + time.tensor_parallel / 2

    def _arrangement(self, copies: int, turns: int) -> Arrangement:
        return Arrangement(self.tensor, self.pipeline, copies, 1, copies * turns, sequence_parallel=False)
