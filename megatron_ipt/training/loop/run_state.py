"""Where a run stands, in plain numbers: saved in every checkpoint, so that a resumed run is the same run.

Three counts that are equal in a quiet run are kept apart, because they need not be: steps done, samples trained on, and
the position in the stream of samples. A batch size that grows parts the first two; a roll-back that leaves out data
parts the last two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunState:
    """The state of a run after ``step`` steps.

    Attributes:
        samples: sequences trained on.
        position: sequences of the stream that are behind, trained on or left out.
        tokens_by_source: tokens trained on, by source.
        losses: of the last steps, for the watch over anomalies.
        interventions: steps skipped and roll-backs so far.
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
