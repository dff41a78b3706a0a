"""Whether a model is usable as a synthesizer, judged by its answers while they come in.

A model that cannot do the task still answers every request, and hours later there are no pairs. So the first answers
are judged: after 10, 100, 300 and 1,000 of them, each finding is reported once, with figures and what to do. A run
without a single pair after ``synthesis.give_up_after`` answers is stopped. Nothing here changes what is written.

Pure: answers in, findings out. Memory is bounded: a digest of each of the first 1,000 answers and a few short samples.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from megatron_ipt.errors import NoPairsError

REFUSED = "refused by the engine"
"""Reason of a drop: the engine did not answer a text."""

CHECKPOINTS = (10, 100, 300, 1000)
"""Numbers of answers after which findings are reported."""

FEW_PAIRS = 0.05
"""Fewer answers with pairs than this fraction are a finding."""

MOST = 0.5
"""A defect of more answers than this fraction is a finding."""

_WINDOW_WORDS = 8
_COPIED_WINDOWS = 0.8
_JUDGED_CHARACTERS = 8_000
_SAMPLES = 3
_SAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Answer:
    """One answer of the model and what came of it.

    Attributes:
        text: the raw answer.
        finished: False when the token limit ended it.
        copied: whether it is :func:`copied` from the prompt.
        pairs: number of pairs that were kept.
        dropped: why others were not, a reason for each.
    """

    text: str
    finished: bool
    copied: bool
    pairs: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something wrong with the answers so far: ``kind`` identifies it, ``message`` has the figures and the remedy."""

    kind: str
    message: str


class Health:
    """Judges the answers of one run.

    Args:
        give_up_after: number of answers without any pair that make the model unusable; None: never.
        proven: whether an earlier run with the same settings got pairs, which makes the model usable.

    Attributes:
        proven: whether there has been a pair.
        answers: number of answers seen.
        samples: up to three distinct answers without pairs, shortened, for messages.
        dropped: number of drops by reason, until the first pair.
    """

    def __init__(self, give_up_after: int | None, proven: bool = False):
        self.proven = proven
        self.answers = 0
        self.samples: list[str] = []
        self.dropped: Counter[str] = Counter()
        self._give_up_after = give_up_after
        self._counts: Counter[str] = Counter()
        self._same: Counter[bytes] = Counter()
        self._reported: set[str] = set()

    def add(self, answer: Answer) -> list[Finding]:
        """Takes the next answer; returns the new findings if a checkpoint is reached with it."""
        self.answers += 1
        self.proven = self.proven or answer.pairs > 0
        if not self.proven:
            self.dropped.update(answer.dropped)
        if not answer.pairs and len(self.samples) < _SAMPLES:
            sample = shortened(answer.text)
            if sample not in self.samples:
                self.samples.append(sample)
        if self.answers > CHECKPOINTS[-1]:
            return []
        self._counts["with pairs"] += answer.pairs > 0
        self._counts["cut off"] += not answer.finished
        self._counts["copied"] += answer.copied
        self._same[hashlib.blake2b(" ".join(answer.text.split()).encode(errors="replace"), digest_size=8).digest()] += 1
        if self.answers not in CHECKPOINTS:
            return []
        found = [finding for finding in self._findings() if finding.kind not in self._reported]
        self._reported.update(finding.kind for finding in found)
        return found

    @property
    def unusable(self) -> bool:
        """Whether it is time to give up."""
        return not self.proven and self._give_up_after is not None and self.answers >= self._give_up_after

    def _findings(self) -> Iterable[Finding]:
        total = self.answers
        usable, cut, copies = (self._counts[name] for name in ("with pairs", "cut off", "copied"))
        ((_, same),) = self._same.most_common(1)
        if usable < FEW_PAIRS * total:
            share = f"only {usable:,}" if usable else "none"
            yield Finding(
                "few pairs",
                f"{share} of the first {total:,} answers gave a pair. An answer without one: {self.samples[0]!r}. "
                "Check that the model answers in the format of synthesis.prompt, and synthesis.filters.",
            )
        if same > MOST * total:
            yield Finding(
                "same answer",
                f"{same:,} of the first {total:,} answers are the same: the model ignores the text, or the texts are "
                "the same. Check the model and synthesis.prompt.",
            )
        if cut > MOST * total:
            yield Finding(
                "cut off",
                f"{cut:,} of the first {total:,} answers were cut off at the token limit: raise "
                "synthesis.generation.max_new_tokens, or use a model that ends its answers.",
            )
        if copies > MOST * total:
            yield Finding(
                "copied",
                f"{copies:,} of the first {total:,} answers are copied from the prompt: the model continues the text "
                "instead of asking about it. Use a model tuned for instructions or pairs.",
            )


def copied(answer: str, prompt: str) -> bool:
    """Whether at least 80 % of the successive stretches of 8 words of ``answer`` are in ``prompt``.

    Shorter answers never count. Only the first 8,000 characters of the answer are judged.
    """
    words = answer[:_JUDGED_CHARACTERS].split()
    stretches = [
        " ".join(words[start : start + _WINDOW_WORDS])
        for start in range(0, len(words) - _WINDOW_WORDS + 1, _WINDOW_WORDS)
    ]
    if not stretches:
        return False
    within = " ".join(prompt.split())
    return sum(stretch in within for stretch in stretches) >= _COPIED_WINDOWS * len(stretches)


def shortened(answer: str) -> str:
    """At most 200 characters of ``answer`` on one line, without control and other invisible characters."""
    start = " ".join(answer[: 10 * _SAMPLE_CHARACTERS].split())
    visible = "".join(character for character in start if unicodedata.category(character)[0] != "C").strip()
    if len(visible) <= _SAMPLE_CHARACTERS:
        return visible
    return visible[: _SAMPLE_CHARACTERS - 1].rstrip() + "…"


def no_pairs(texts: int, dropped: Mapping[str, int], samples: Iterable[str], style: str, rejects: str) -> NoPairsError:
    """The error for texts that got no pair.

    Args:
        texts: number of texts, all without pairs.
        dropped: number of drops by reason.
        samples: answers to show.
        style: ``synthesis.prompt``.
        rejects: where the drops are; empty if they are not written yet.
    """
    subject = "the only text got no pair" if texts == 1 else f"none of {texts:,} texts got a pair"
    lines = [f"synthesis: {subject}"]
    if dropped:
        lines[0] += "; dropped: " + ", ".join(f"{reason} ({count:,})" for reason, count in dropped.items())
    if rejects:
        lines[0] += f"; see {rejects}"
    shown = [f"  {sample!r}" if sample else "  (empty)" for sample in samples]
    if shown:
        lines += ["Answers of the model, for example:", *shown]
    if set(dropped) == {REFUSED}:
        lines.append("The engine refused every text; the rejects say why. Fix the cause, then rerun.")
        return NoPairsError("\n".join(lines))
    lines.append(
        f"This model does not work with synthesis.prompt={style}. Use a model that was tuned for this format, another "
        "prompt style, or other synthesis.filters if these dropped the pairs; then rerun with --overwrite. "
        'See docs/synthesis.md, "When a model is not usable".'
    )
    return NoPairsError("\n".join(lines))
