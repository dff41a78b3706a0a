"""Speed and resources of a run: time, FLOPs, memory, and how evenly the ranks are loaded."""

from __future__ import annotations

import math
import time
from typing import Any

import psutil
import torch

from megatron_ipt.models.flops import peak_tflops


class Telemetry:
    """Figures since the last reading; excludes the time for validation and saving.

    Args:
        ranks: world size; each rank has a slot for the seconds of its forward and backward passes.
        flops_per_token: FLOPs of the model, forward and backward.
        peak: TFLOP/s of one GPU from the recipe; None looks the GPU up.
    """

    def __init__(self, rank: int, ranks: int, flops_per_token: float, precision: str, peak: float | None):
        self._flops_per_token = flops_per_token
        self._ranks = ranks
        if peak is None and torch.cuda.is_available():
            peak = peak_tflops(torch.cuda.get_device_name(), precision)
        self._peak = peak
        self._slots = torch.zeros(ranks, dtype=torch.float64)
        self._rank = rank
        self._tokens = self._steps = 0
        self._busy = torch.zeros(ranks, dtype=torch.float64)
        self._start = time.monotonic()

    def slots(self, seconds: float) -> torch.Tensor:
        """This rank's ``seconds`` in its slot, zeros elsewhere; summed over ranks, the seconds of each rank. [ranks]"""
        self._slots[self._rank] = seconds
        return self._slots

    def count(self, tokens: int, busy: torch.Tensor) -> None:
        """Adds a step of ``tokens`` tokens, in which rank i was busy for ``busy[i]`` seconds."""
        self._tokens += tokens
        self._steps += 1
        self._busy += busy

    def read(self) -> dict[str, Any]:
        """Figures for a line of metrics; starts a new interval."""
        now = time.monotonic()
        rate = self._tokens / max(now - self._start, 1e-9)
        tflops = rate * self._flops_per_token / self._ranks / 1e12
        figures: dict[str, Any] = {"tokens_per_second": rate, "tflops": tflops}
        if self._peak:
            figures["mfu"] = tflops / self._peak
        figures["memory_gb"] = memory_in_use() / 1e9
        if self._ranks > 1:
            busy = (self._busy / max(self._steps, 1)).tolist()
            ordered = sorted(busy)
            figures |= {
                "rank_seconds_p50": percentile(ordered, 50),
                "rank_seconds_p95": percentile(ordered, 95),
                "rank_seconds_max": ordered[-1],
                "slowest_rank": busy.index(ordered[-1]),
            }
        self._start, self._tokens, self._steps = now, 0, 0
        self._busy.zero_()
        return figures

    def paused(self) -> _Pause:
        """A context whose time is excluded."""
        return _Pause(self)


class _Pause:
    def __init__(self, telemetry: Telemetry):
        self._telemetry = telemetry

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._telemetry._start += time.monotonic() - self._began


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest of the ``ordered`` values such that ``percent`` % of them are not greater."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def memory_in_use() -> int:
    """Peak bytes that this process has allocated on its GPU; on CPU, its resident memory now."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


class Profile:
    """Records some steps with torch's profiler into ``profile/``, for Perfetto; does nothing without a first step."""

    def __init__(self, directory: Any, rank: int, first: int | None, steps: int):
        self._path = directory / "profile" / f"rank-{rank}.json"
        self._first = first
        self._last = (first or 0) + steps - 1
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Call before step ``step``, counted from 1."""
        if step == self._first:
            self._profiler = torch.profiler.profile()
            self._profiler.start()

    def after(self, step: int) -> None:
        """Call after step ``step``."""
        if self._profiler is not None and step == self._last:
            self._profiler.stop()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self._path))
            self._profiler = None
