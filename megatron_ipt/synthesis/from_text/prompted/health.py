"""Whether a model is usable as a synthesizer, judged by its answers while they come in.

A model that cannot do the task still answers every request, and hours later there are no pairs. So the first answers
are judged: after 10, 30, 100, 300 and 1,000 of them, each finding is reported once, with figures and what to do. A run
without a single pair after ``synthesis.give_up_after`` answers is stopped, earlier where nothing in the answers even
looks like a pair. Nothing here changes what is written.

Pure: answers in, findings out. Memory is bounded: digests of the first 1,000 answers and their questions, and a few
short samples.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.errors import NoPairsError
from megatron_ipt.inference.engine import Completion
from megatron_ipt.synthesis.from_text.prompted.filters import SHORT_WORDS, support, takes_words_from_text
from megatron_ipt.synthesis.from_text.prompted.language import in_another_language
from megatron_ipt.synthesis.from_text.prompted.parsing import (
    COPIED,
    CUT_OFF,
    NOTHING_FOUND,
    OUTSIDE,
    UNFINISHED,
    question_key,
)
from megatron_ipt.synthesis.pairs import Pair
from megatron_ipt.synthesis.statistics import (
    ANSWERS_CUT_OFF,
    ANSWERS_DECLINED,
    ANSWERS_FROM_EXAMPLE,
    ANSWERS_FROM_PROMPT,
    ANSWERS_OTHER_LANGUAGE,
    SHORT_ANSWERS,
    SHORT_NOT_IN_TEXT,
)

REFUSED = "refused by the engine"
EMPTY = "empty answer of the engine"
"""Reasons of drops: the engine did not answer a text, or answered nothing."""

CHECKPOINTS = (10, 30, 100, 300, 1000)
"""Numbers of answers after which findings are reported."""

FEW_PAIRS = 0.05
"""Fewer answers with pairs than this fraction are a finding."""

MOST = 0.5
"""A defect of more answers than this fraction is a finding."""

MOST_SHORT = 0.8
"""More short answers than this fraction that share no word with their text are a finding."""

NOTHING_LIKE_A_PAIR = frozenset((CUT_OFF, UNFINISHED, OUTSIDE, NOTHING_FOUND, EMPTY, REFUSED))
"""Reasons of drops that do not show that the model tried to write a pair."""

HOPELESS = 20
"""Answers after which a model is given up if nothing in them looked like a pair."""

_LEAST = 5
"""Answers that a fraction of some of them must be of, to mean anything."""
_WINDOW_WORDS = 8
_COPIED_WINDOWS = 0.8
_JUDGED_CHARACTERS = 8_000
_SAMPLES = 3
_SAMPLE_CHARACTERS = 200
_WORD = re.compile(r"\w+")
_LEAST_SPACES = 0.05
"""Of the characters of a text whose words are divided by spaces."""
_NOT_WORDS = re.compile(r"""</?[A-Z]{3}>|["']\w+["']\s*:""")
"""Marks of the synthesizer's format and names in JSON: the same in every language."""
_DECLINED = re.compile(
    r"(?:i['’]?m|i am) (?:sorry|unable to|not able to)|(?:sorry|apologies), |i apologi[sz]e|"
    r"i (?:cannot|can['’]?t|can not|won['’]?t) |as an? (?:ai|artificial|(?:large )?language model)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """One answer of the model and what came of it.

    Attributes:
        text: the raw answer.
        finished: False when the token limit ended it.
        copied: whether it is :func:`copied` from the prompt.
        pairs: number of pairs that were kept.
        dropped: why others were not, a reason for each.
        questions: of the pairs, as the model wrote them, in a form that ignores case and spacing.
        from_example: every pair in it was copied from the example in the prompt.
        other_language: whether it is in another language than the text; None where that is unclear.
        declined: whether the model declined to answer.
        short: number of answers of pairs that are expected to use words of the text.
        not_in_text: number of these that share no word with it.
        task: what was asked, for prompt styles with several tasks.
    """

    text: str
    finished: bool
    copied: bool
    pairs: int
    dropped: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    from_example: bool = False
    other_language: bool | None = None
    declined: bool = False
    short: int = 0
    not_in_text: int = 0
    task: str = ""

    def counts(self) -> Counter[str]:
        """What the counts of the stage hold of it. Defects it does not have are not counted as 0: the counts of a good
        model list none."""
        found = {
            ANSWERS_FROM_PROMPT: int(self.copied),
            ANSWERS_CUT_OFF: int(not self.finished),
            ANSWERS_FROM_EXAMPLE: int(self.from_example),
            ANSWERS_OTHER_LANGUAGE: int(bool(self.other_language)),
            ANSWERS_DECLINED: int(self.declined),
            SHORT_ANSWERS: self.short,
            SHORT_NOT_IN_TEXT: self.not_in_text,
        }
        return Counter({name: count for name, count in found.items() if count})


def judged(
    text: str,
    prompt: str,
    completion: Completion,
    pairs: Sequence[Pair],
    dropped: Sequence[str],
    wordings: frozenset[str],
    task: str = "",
) -> Answer:
    """What there is to say about one answer.

    Args:
        text: that was asked about.
        prompt: as a string.
        completion: the answer.
        pairs: that were kept of it.
        dropped: the reason of every drop.
        wordings: instructions that the prompt style puts into pairs itself.
        task: what was asked.
    """
    own = [pair for pair in pairs if pair.question not in wordings]
    said = " ".join((*(pair.question for pair in own), *(pair.answer for pair in pairs)))
    short = [pair for pair in own if takes_words_from_text(pair, SHORT_WORDS)]
    return Answer(
        completion.text,
        completion.finished,
        copied(completion.text, prompt),
        len(pairs),
        tuple(dropped),
        tuple(question_key(pair.question) for pair in own),
        not pairs and COPIED in dropped,
        in_another_language(text, said or _NOT_WORDS.sub(" ", completion.text)),
        declined(completion.text),
        *_not_in_text(text, short),
        task,
    )


def _not_in_text(text: str, short: Sequence[Pair]) -> tuple[int, int]:
    """(answers that were compared with the text, those that share no word with it)."""
    # Without spaces there are no words to compare.
    if not short or text.count(" ") < _LEAST_SPACES * len(text):
        return 0, 0
    folded = text.casefold()
    words = frozenset(_WORD.findall(folded))
    foreign = [pair for pair in short if not support(words, pair.answer) and pair.answer.casefold() not in folded]
    return len(short), len(foreign)


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
        self._asked: set[bytes] = set()
        self._reasons: Counter[str] = Counter()
        self._tasks: dict[str, list[int]] = {}
        self._near = False
        self._reported: set[str] = set()

    def add(self, answer: Answer) -> list[Finding]:
        """Takes the next answer; returns the new findings if a checkpoint is reached with it."""
        self.answers += 1
        self.proven = self.proven or answer.pairs > 0
        if not self.proven:
            self.dropped.update(answer.dropped)
            self._near = self._near or not NOTHING_LIKE_A_PAIR.issuperset(answer.dropped)
        if not answer.pairs and len(self.samples) < _SAMPLES:
            sample = shortened(answer.text)
            if sample not in self.samples:
                self.samples.append(sample)
        if self.answers > CHECKPOINTS[-1]:
            return []
        self._counts["with pairs"] += answer.pairs > 0
        self._counts["cut off"] += not answer.finished
        self._counts["copied"] += answer.copied
        self._counts["other language"] += answer.other_language is True
        self._counts["clear language"] += answer.other_language is not None
        self._counts["declined"] += answer.declined
        self._counts["short"] += answer.short
        self._counts["not in text"] += answer.not_in_text
        self._counts["from example"] += answer.from_example
        self._count_questions(answer.questions)
        self._reasons.update(answer.dropped)
        if answer.task:
            of_task = self._tasks.setdefault(answer.task, [0, 0])
            of_task[0] += answer.pairs > 0
            of_task[1] += 1
        self._same[_digest(" ".join(answer.text.split()))] += 1
        return self._new_findings() if self.answers in CHECKPOINTS else []

    def at_end(self) -> list[Finding]:
        """The new findings when no more answers will come."""
        return self._new_findings() if CHECKPOINTS[0] <= self.answers <= CHECKPOINTS[-1] else []

    def _new_findings(self) -> list[Finding]:
        found = [finding for finding in self._findings() if finding.kind not in self._reported]
        self._reported.update(finding.kind for finding in found)
        return found

    @property
    def unusable(self) -> bool:
        """Whether it is time to give up."""
        if self.proven or self._give_up_after is None:
            return False
        return self.answers >= (self._give_up_after if self._near else min(self._give_up_after, HOPELESS))

    def _count_questions(self, questions: Sequence[str]) -> None:
        asked = {_digest(question) for question in questions}
        if asked:
            self._counts["with questions"] += 1
            self._counts["asked before"] += asked <= self._asked
            self._asked |= asked

    def _findings(self) -> Iterator[Finding]:
        total = self.answers
        count = self._counts
        usable = count["with pairs"]
        ((_, same),) = self._same.most_common(1)
        reasons = ", ".join(f"{reason} ({number:,})" for reason, number in self._reasons.most_common(3))
        why = f"; dropped: {reasons}" if reasons else ""
        if usable < FEW_PAIRS * total:
            share = f"only {usable:,}" if usable else "none"
            yield Finding(
                "few pairs",
                f"{share} of the first {total:,} answers gave a pair{why}. An answer without one: {self.samples[0]!r}. "
                "Check that the model answers in the format of synthesis.prompt, and synthesis.filters.",
            )
        elif usable < MOST * total:
            yield Finding(
                "half without pairs",
                f"{total - usable:,} of the first {total:,} answers gave no pair{why}. One of them: "
                f"{self.samples[0]!r}. Check that the model follows synthesis.prompt, and synthesis.filters; a larger "
                "or tuned model follows it better.",
            )
        failed = [
            f"{name} ({got} of {asked})"
            for name, (got, asked) in sorted(self._tasks.items())
            if asked >= _LEAST and got < FEW_PAIRS * asked
        ]
        if failed and usable >= FEW_PAIRS * total:
            yield Finding(
                "tasks",
                f"the model cannot do some of the tasks; answers with pairs: {', '.join(failed)}. Leave these out with "
                "a file of tasks of your own (synthesis.prompt), or use another model.",
            )
        if count["from example"] > MOST * total:
            yield Finding(
                "example",
                f"{count['from example']:,} of the first {total:,} answers only repeat the example in the prompt. "
                "Remove the examples from the file of tasks, sample (synthesis.generation.temperature), or use another "
                "model.",
            )
        elif same > MOST * total:
            yield Finding(
                "same answer",
                f"{same:,} of the first {total:,} answers are the same: the model ignores the text, or the texts are "
                "the same. Check the model and synthesis.prompt.",
            )
        elif count["with questions"] >= _LEAST and count["asked before"] > MOST * count["with questions"]:
            yield Finding(
                "same questions",
                f"{count['asked before']:,} of the first {count['with questions']:,} answers with questions ask only "
                "what was asked about earlier texts: the model ignores the text, or the texts are the same. Sample "
                "(synthesis.generation.temperature), or use another model or synthesis.prompt.",
            )
        if count["cut off"] > MOST * total:
            yield Finding(
                "cut off",
                f"{count['cut off']:,} of the first {total:,} answers were cut off at the token limit: raise "
                "synthesis.generation.max_new_tokens, or use a model that ends its answers.",
            )
        if count["copied"] > MOST * total:
            yield Finding(
                "copied",
                f"{count['copied']:,} of the first {total:,} answers are copied from the prompt: the model continues "
                "the text instead of asking about it. Use a model tuned for instructions or pairs.",
            )
        if count["declined"] > MOST * total:
            yield Finding(
                "declined",
                f'{count["declined"]:,} of the first {total:,} answers decline the request ("I\'m sorry", "I cannot"). '
                "Change the wording of the tasks (synthesis.prompt), or use another model.",
            )
        if count["clear language"] >= _LEAST and count["other language"] > MOST * count["clear language"]:
            yield Finding(
                "language",
                f"{count['other language']:,} of the first {count['clear language']:,} answers whose language is clear "
                "are in another language than their text. Name the language in the tasks (synthesis.prompt), use "
                "another model, or drop such pairs with synthesis.filters.same_language.",
            )
        if count["short"] >= 2 * _LEAST and count["not in text"] > MOST_SHORT * count["short"]:
            yield Finding(
                "not about the text",
                f"{count['not in text']:,} of the first {count['short']:,} short answers share no word with their "
                "text: the model makes them up. Use a larger model or one tuned for pairs, or drop such pairs with "
                "synthesis.filters.answer_support.",
            )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()


def declined(answer: str) -> bool:
    """Whether ``answer`` begins as models begin when they decline a request, in English."""
    return _DECLINED.match(answer.rpartition("</think>")[2].lstrip(' \n"*')) is not None


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
