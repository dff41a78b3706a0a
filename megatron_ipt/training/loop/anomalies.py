"""Anomalous losses: how they are detected, and what the recipe says to do about them.

A spike is detected by the median and the median absolute deviation of recent losses, which a single outlier cannot
shift. These losses are part of the run's state, so a resumed run decides as the uninterrupted one would have.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ipt.training.config import AnomalyConfig
from megatron_ipt.training.loop.run_state import RunState


@dataclass(frozen=True)
class Anomaly:
    """A step with an anomalous loss or gradient.

    Attributes:
        kind: ``non_finite`` or ``spike``.
        action: ``stop``, ``skip`` or ``rollback``.
        found: description for messages.
    """

    kind: str
    action: str
    found: str


class LossWatch:
    """Judges each step before the weights are updated."""

    def __init__(self, settings: AnomalyConfig):
        self._settings = settings

    def judge(self, loss: float, state: RunState, metrics: Mapping[str, float] | None = None) -> Anomaly | None:
        """What is wrong with ``loss``; None if nothing is.

        Args:
            metrics: of the objectives, to name those that are not finite either.
        """
        if not math.isfinite(loss):
            causes = [f"{name} is {value}" for name, value in (metrics or {}).items() if not math.isfinite(value)]
            found = f"the loss is {loss}" + (f" ({', '.join(causes)})" if causes else "")
            return self._anomaly("non_finite", self._settings.non_finite, found, state)
        limit = self._limit(state)
        if limit is not None and loss > limit:
            found = f"the loss is {loss:.4f}, above {limit:.4f}"
            return self._anomaly("spike", self._settings.spike, found, state)
        return None

    def judge_gradient(self, norm: float, state: RunState) -> Anomaly | None:
        """What is wrong with the norm of the gradient; None if nothing is."""
        if math.isfinite(norm):
            return None
        return self._anomaly("non_finite", self._settings.non_finite, f"the gradient norm is {norm}", state)

    def accept(self, loss: float, state: RunState) -> None:
        """Adds the loss of a normal step to those that later ones are compared with."""
        if self._settings.spike != "ignore":
            state.losses = [*state.losses, loss][-self._settings.spike_window :]

    def _limit(self, state: RunState) -> float | None:
        if self._settings.spike == "ignore" or len(state.losses) < self._settings.spike_window // 2:
            return None
        middle = statistics.median(state.losses)
        deviation = statistics.median(abs(loss - middle) for loss in state.losses)
        return middle + self._settings.spike_threshold * max(deviation, 1e-3 * abs(middle))

    def _anomaly(self, kind: str, action: str, found: str, state: RunState) -> Anomaly:
        if action != "stop" and state.interventions >= self._settings.limit:
            found += f" (and training.anomalies.limit={self._settings.limit} is reached)"
            action = "stop"
        return Anomaly(kind, action, found)
