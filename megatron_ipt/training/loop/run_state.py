"""The progress of a run in plain numbers: saved in every checkpoint, so a resumed run continues exactly.

Steps, samples trained on and the position in the sample stream are counted separately: with a batch size ramp, samples
are not proportional to steps, and after a rollback that skips data, the position is ahead of the samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunState:
    """The state of a run after ``step`` steps.

    Attributes:
        samples: number of sequences trained on.
        position: number of sequences consumed from the stream, trained on or skipped.
        tokens_by_source: tokens trained on, by source.
        losses: recent ones, for anomaly detection.
        interventions: number of skipped steps and rollbacks so far.
    """

    step: int = 0
    samples: int = 0
    position: int = 0
    tokens_by_source: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    interventions: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunState:
        return cls(**values)
