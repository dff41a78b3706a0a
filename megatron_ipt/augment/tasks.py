"""Pairs as they go into a document: their kind, their options matched with the answer, unanswerable ones reworded.

Preparing looks at every pair once and never changes it. Which pattern, option style and order a document takes is
decided later, when it is known what its pairs have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_ipt.augment.options import cites_letter, distinct, right_option
from megatron_ipt.augment.templates import ANY, Templates, normalized_mark
from megatron_ipt.synthesis.pairs import TEXT_COMPLETION, Example, Pair

FREE, CHOICE, FREE_REASONING, CHOICE_REASONING, COMPLETION = (
    "free", "choice", "free_reasoning", "choice_reasoning", "completion",
)  # fmt: skip
_QUESTION_MARKS = ("?", "？", "؟")
_SURROUNDED = 4
"""Characters by which brackets and a full stop may lengthen a mark."""


@dataclass
class Task:
    """A pair, ready to be written.

    Attributes:
        kind: key of its patterns.
        asks: ``question``, ``instruction``, or ``any`` for what asks and then goes on.
        options: distinct options, with a right one; empty for other kinds.
        right: index of the right option.
        fixed: the reasoning names options by letter, so that order and letters must stay.
        unmatched_options: options of a pair whose answer is none of them: listed with the question.
    """

    __slots__ = ("answer", "asks", "fixed", "kind", "options", "question", "reasoning", "right", "unmatched_options")

    kind: str
    asks: str
    question: str
    answer: str
    reasoning: str
    options: Sequence[str]
    right: int
    fixed: bool
    unmatched_options: Sequence[str]


@dataclass
class Sheet:
    """A text with its tasks; ``lead`` is a completion, which belongs to the text."""

    __slots__ = ("lead", "tasks", "text")

    text: str
    lead: Task | None
    tasks: list[Task]


def prepare_example(example: Example, templates: Templates, uniform: Callable[[], float]) -> Sheet:
    """The sheet of ``example``, tasks in the order of its pairs."""
    tasks = [_prepare(pair, templates, uniform) for pair in example.pairs]
    lead = None
    if tasks and example.pairs[0].category == TEXT_COMPLETION:
        lead = tasks.pop(0)
        if lead.kind == FREE:
            lead.kind = COMPLETION
    return Sheet(example.text, lead, tasks)


def _prepare(pair: Pair, templates: Templates, uniform: Callable[[], float]) -> Task:
    asks = _asks(pair.question)
    kind = FREE_REASONING if pair.reasoning else FREE
    if pair.options:
        options = distinct(pair.options)
        right = right_option(options, pair.answer)
        if right is not None:
            fixed = bool(pair.reasoning) and cites_letter(pair.reasoning)
            if fixed and len(options) < len(pair.options):
                # Leaving out a repeated option would move the letters that the reasoning names.
                options, right = list(pair.options), pair.options.index(options[right])
            kind = CHOICE_REASONING if pair.reasoning else CHOICE
            return Task(kind, asks, pair.question, options[right], pair.reasoning, options, right, fixed, ())
        return Task(kind, asks, pair.question, _worded(pair.answer, templates, uniform), pair.reasoning, (), 0, False,
                    options)  # fmt: skip
    answer = pair.answer
    if len(answer) <= templates.longest_mark + _SURROUNDED:
        answer = _worded(answer, templates, uniform)
    return Task(kind, asks, pair.question, answer, pair.reasoning, (), 0, False, ())


def _worded(answer: str, templates: Templates, uniform: Callable[[], float]) -> str:
    """A wording for "no answer" in place of an empty answer or, mostly, of a mark for it."""
    if not answer.strip():
        return templates.no_answer_wordings.draw(uniform)
    if normalized_mark(answer) in templates.no_answer_marks and uniform() < templates.no_answer_share:
        return templates.no_answer_wordings.draw(uniform)
    return answer


def _asks(question: str) -> str:
    if question.rstrip().endswith(_QUESTION_MARKS):
        return "question"
    return ANY if any(mark in question for mark in _QUESTION_MARKS) else "instruction"


def common(conditions: set[str]) -> str:
    """The condition that all share, or ``any``."""
    return next(iter(conditions)) if len(conditions) == 1 else ANY
