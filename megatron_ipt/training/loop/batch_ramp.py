"""Batch size over the run: constant, or ramped up over the first samples.

The rule is Megatron's (``rampup_batch_size``): the size starts at ``start`` and grows by ``increment`` each time
another equal part of ``samples`` has been consumed. It only depends on the samples consumed, so a resumed run continues
with the right size, and the number of steps for a number of samples is known in advance.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchRamp:
    """Sequences per step; ``increment`` must divide ``full - start``."""

    full: int
    start: int
    increment: int
    samples: int

    @classmethod
    def constant(cls, size: int) -> BatchRamp:
        return cls(size, size, 1, 0)

    def size_at(self, consumed: int) -> int:
        """Batch size of the step that starts after ``consumed`` samples."""
        if self.start == self.full or consumed > self.samples:
            return self.full
        parts = (self.full - self.start) // self.increment
        return self.start + int(consumed / (self.samples / parts)) * self.increment

    def samples_after(self, steps: int) -> int:
        """Samples that the first ``steps`` steps consume."""
        consumed = 0
        for done in range(steps):
            if self.size_at(consumed) == self.full:
                return consumed + (steps - done) * self.full
            consumed += self.size_at(consumed)
        return consumed

    def steps_for(self, samples: int) -> tuple[int, int]:
        """Number of full steps within ``samples``, and the remaining samples."""
        steps = consumed = 0
        while (size := self.size_at(consumed)) < self.full and consumed + size <= samples:
            consumed += size
            steps += 1
        if size < self.full:
            return steps, samples - consumed
        whole, rest = divmod(samples - consumed, self.full)
        return steps + whole, rest

    def sizes(self) -> list[int]:
        """Every batch size of the run, in order."""
        return [*range(self.start, self.full, self.increment), self.full]
