"""Progress of a run: a bar with rates, cost and time left, a line of metrics every few seconds, and a verdict on the
model while there is time to stop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_ipt.errors import NoPairsError
from megatron_ipt.progress import MetricsFile, Progress
from megatron_ipt.synthesis.from_taxonomy.asking import ANSWERS, QUESTIONS, SESSIONS, SUBJECTS, TOO_LONG, Call
from megatron_ipt.synthesis.from_taxonomy.growing import REFUSED
from megatron_ipt.synthesis.from_taxonomy.journal import Reply
from megatron_ipt.synthesis.from_taxonomy.outline.parsing import sessions_in, subjects_in
from megatron_ipt.synthesis.spending.ledger import Ledger
from megatron_ipt.synthesis.spending.outlook import Outlook
from megatron_ipt.synthesis.spending.price import PriceConfig

logger = logging.getLogger(__name__)

METRICS = "metrics"
"""Begins the names of the files of all processes."""
_PARSERS = {SUBJECTS: subjects_in, SESSIONS: sessions_in}
_SAMPLE_CHARACTERS = 300
_FEW_ANSWERS, _MOST_CUT_OFF = 20, 0.5
"""From so many answers on, a warning if more than this fraction is cut off."""


class Monitor:
    """Counts calls.

    Args:
        metrics: file to append to.
        seconds: interval between its lines.
        expected: calls of this process that are expected.
        money: ledger and price of each model.
        give_up_after: conversions without any object after which :meth:`answered` raises; None for never.
    """

    def __init__(
        self,
        metrics: Path,
        seconds: float,
        expected: int,
        money: list[tuple[Ledger, PriceConfig]],
        give_up_after: int | None,
    ):
        self._metrics = MetricsFile(metrics, seconds)
        self._bar = Progress("taxonomy", expected, "calls")
        self._outlooks = [Outlook(ledger, price) for ledger, price in money]
        self._give_up_after = give_up_after
        self._samples: list[str] = []
        self._conversions = self._successes = self._shown = 0
        self._warned = False
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Monitor:
        self._metrics.__enter__()
        self._bar.__enter__()
        return self

    def resumed(self, calls: int, useful: bool) -> None:
        """A discipline with so many calls in its journal was opened; ``useful`` if the model is known to be."""
        self._successes += useful
        if calls and self._bar.total is not None:
            self._bar.total = max(1, self._bar.total - calls)

    def answered(self, call: Call, reply: Reply) -> None:
        """A call was answered.

        Raises:
            NoPairsError: the first conversions to JSON had no subject and no session.
        """
        counts = self.counts
        if reply.unasked:
            counts["unasked"] += 1
            return
        counts["calls"] += 1
        counts["refused"] += bool(reply.refused)
        counts["prompt_tokens"] += reply.prompt_tokens
        counts["generated_tokens"] += reply.generated_tokens
        counts[call.level] += 1
        if call.level == ANSWERS:
            counts["answers_cut_off"] += not reply.finished
        if call.level in _PARSERS:
            self._converted(call, reply)
        self._warn()

    def finished(self) -> None:
        """A discipline is written."""
        self.counts["disciplines"] += 1

    def _converted(self, call: Call, reply: Reply) -> None:
        if reply.refused:
            return
        self._conversions += 1
        if _PARSERS[call.level](reply.text)[0]:
            self._successes += 1
            return
        if len(self._samples) < 3:
            self._samples.append(reply.text[:_SAMPLE_CHARACTERS])
        if not self._successes and self._give_up_after is not None and self._conversions >= self._give_up_after:
            raise useless(
                f"the first {self._conversions} conversions to JSON had no subject and no session", self._samples
            )

    def _warn(self) -> None:
        answers, cut_off = self.counts[ANSWERS], self.counts["answers_cut_off"]
        if not self._warned and answers >= _FEW_ANSWERS and cut_off > _MOST_CUT_OFF * answers:
            self._warned = True
            logger.warning(
                "taxonomy: %d of %d answers were cut off and are lost; raise taxonomy.answers.generation."
                "max_new_tokens", cut_off, answers,
            )  # fmt: skip

    def tick(self) -> None:
        """Refreshes the bar and writes a line when one is due. Call a few times per second."""
        counts = self.counts
        done, left = counts["calls"], self._left
        if self._bar.total is not None and done > self._bar.total:
            # The model finds more subjects than expected.
            self._bar.total = done
        shown: dict[str, Any] = {"questions": f"{counts[QUESTIONS]:,}", "answers": f"{counts[ANSWERS]:,}"}
        shown["disciplines done"] = counts["disciplines"]
        for outlook in self._outlooks:
            shown |= outlook.shown(done, left)
        self._bar.advance(done - self._shown, **shown)
        self._shown = done
        if self._metrics.due:
            self._write()

    @property
    def _left(self) -> int | None:
        return None if self._bar.total is None else max(0, self._bar.total - self.counts["calls"])

    def _write(self) -> None:
        self._metrics.write({name.replace(" ", "_"): count for name, count in self.counts.items()})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.tick()
            if self.counts["calls"]:
                self._write()
        finally:
            self._bar.__exit__()
            self._metrics.__exit__(kind, error, traceback)


def useless(what: str, samples: list[str]) -> NoPairsError:
    """The error for a model that is of no use here."""
    lines = [f"taxonomy: {what}."]
    if samples:
        lines += ["Answers of the model, for example:", *(f"  {sample!r}" for sample in samples)]
    lines.append(
        "This model does not follow the prompts. Use a larger instruction-tuned model, your own taxonomy.prompts, or "
        "a larger taxonomy.generation.max_new_tokens if the answers are cut off; then rerun with --overwrite. See "
        "docs/glan.md."
    )
    return NoPairsError("\n".join(lines))


def no_pairs(lost: Mapping[str, int]) -> NoPairsError:
    """The error for a run that ended without a pair.

    Args:
        lost: nodes by kind and reason.
    """
    what = f"not one pair was made; lost: {', '.join(f'{reason} ({count:,})' for reason, count in lost.items())}"
    reasons = {reason.partition(": ")[2] for reason in lost}
    if reasons == {REFUSED}:
        return NoPairsError(
            f"taxonomy: {what}. The rejects say why. Fix the cause and rerun: only what was refused is asked."
        )
    if reasons <= {REFUSED, TOO_LONG}:
        return NoPairsError(
            f"taxonomy: {what}. Raise taxonomy.generation.context_length as far as the model goes, or lower "
            "max_new_tokens; then rerun with --overwrite."
        )
    return useless(what, [])
