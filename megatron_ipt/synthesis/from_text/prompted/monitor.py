"""Progress of a run: a bar with rates and time left, and a line of metrics every few seconds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ipt.inference.engine import Engine
from megatron_ipt.progress import MetricsFile, Progress
from megatron_ipt.synthesis.from_text.prompted.health import Answer, Finding, Health
from megatron_ipt.synthesis.from_text.prompted.synthesizer import Outcome
from megatron_ipt.synthesis.spending.outlook import Outlook

logger = logging.getLogger(__name__)

_RATE_SECONDS = 30.0
"""Rates are averages over about this long."""


class Monitor:
    """Counts finished chains.

    Args:
        engine: its figures are recorded as well.
        metrics: the file to append to.
        seconds: interval between its lines.
        documents: total number of documents, if known.
        done: number of documents in finished shards.
        health: judges the answers.
        outlook: knows what they cost.

    Attributes:
        counts: totals of this run.
        in_flight: chains that are being worked on.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Path,
        seconds: float,
        documents: int | None,
        done: int,
        health: Health,
        outlook: Outlook,
    ):
        self._engine = engine
        self._outlook = outlook
        self._metrics = MetricsFile(metrics, seconds)
        self._bar = Progress("synthesis", documents, "documents", done)
        self.health = health
        self._shown = 0
        self.counts: Counter[str] = Counter()
        self.in_flight = 0

    def __enter__(self) -> Monitor:
        self._metrics.__enter__()
        self._bar.__enter__()
        self._history = [(time.monotonic(), 0, 0)]
        return self

    def resumed(self, documents: int) -> None:
        """Adds documents of unfinished shards that are already in their journals."""
        if documents:
            self._bar.advance(documents)

    def begun(self) -> None:
        self.in_flight += 1

    def ended(self) -> None:
        self.in_flight -= 1

    def answered(self, answer: Answer) -> None:
        """Logs what the answers so far say about the model."""
        self._warn(self.health.add(answer))

    def _warn(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            logger.warning("synthesis: %s", finding.message)

    def finished(self, outcome: Outcome) -> None:
        self.counts.update(outcome.counts)
        for chain in outcome.chains:
            self.counts["texts"] += len(chain.examples)
            for example in chain.examples:
                self.counts["documents"] += "#" not in example.id
                self.counts["pairs"] += len(example.pairs)

    def tick(self, last: bool = False) -> None:
        """Refreshes the bar and writes a line when one is due, or it is the last. Call a few times per second."""
        counts = self.counts
        now = time.monotonic()
        tokens = counts["prompt_tokens"] + counts["generated_tokens"]
        self._history.append((now, counts["texts"], tokens))
        while len(self._history) > 2 and now - self._history[1][0] > _RATE_SECONDS:
            self._history.pop(0)
        then, texts_then, tokens_then = self._history[0]
        elapsed = max(now - then, 1e-9)
        rates = {
            "texts_per_second": round((counts["texts"] - texts_then) / elapsed, 2),
            "tokens_per_second": round((tokens - tokens_then) / elapsed, 1),
            "pairs_per_text": round(counts["pairs"] / max(counts["texts"], 1), 3),
            "in_flight": self.in_flight,
        }
        documents = counts["documents"]
        self._bar.advance(
            documents - self._shown,
            **{"texts/s": rates["texts_per_second"], "tokens/s": f"{rates['tokens_per_second']:,.0f}"},
            **{"pairs/text": rates["pairs_per_text"], "in flight": self.in_flight},
            **self._outlook.shown(documents, self._left),
        )
        self._shown = documents
        if last or self._metrics.due:
            self._write(rates)

    @property
    def _left(self) -> int | None:
        """Documents that are not finished, if known."""
        return None if self._bar.total is None else max(0, self._bar.total - self._bar.done)

    def _write(self, rates: dict[str, Any]) -> None:
        counts = self.counts
        names = ("texts", "pairs", "requests", "prompt_tokens", "generated_tokens", "refused_texts")
        line = {
            **{name: counts[name] for name in names},
            **rates,
            **self._engine.figures(),
            **self._outlook.figures(counts["documents"], self._left),
        }
        self._metrics.write(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.tick(last=True)
                self._warn(self.health.at_end())
        finally:
            self._bar.__exit__()
            self._metrics.__exit__(kind, error, traceback)
