"""Prepares pairs for rendering: finds their kind, matches options with the answer, rewords "no answer".

Input pairs are not modified. Pattern, option style and order are drawn later, when it is known what the pairs of a
document have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_ipt.augment.options import cites_letter, correct_option, distinct
from megatron_ipt.augment.templates import ANY, Templates, normalized_mark
from megatron_ipt.synthesis.pairs import TEXT_COMPLETION, Example, Pair

FREE, CHOICE, FREE_REASONING, CHOICE_REASONING, COMPLETION = (
    "free", "choice", "free_reasoning", "choice_reasoning", "completion",
)  # fmt: skip
_QUESTION_MARKS = ("?", "？", "؟")
_SURROUNDING = 4
"""Number of characters that brackets and a period may add to a mark."""


@dataclass
class PreparedPair:
    """A pair, ready to be written.

    Attributes:
        kind: key of its patterns.
        asks: ``question``, ``instruction``, or ``any`` if a question mark is followed by more text.
        options: distinct options, one of them correct; empty for other kinds.
        correct: index of the correct option.
        keep_letters: the reasoning refers to options by letter, so that order and letters must not change.
        unmatched_options: options of a pair whose answer is not among them; written with the question.
    """

    __slots__ = (
        "answer", "asks", "correct", "keep_letters", "kind", "options", "question", "reasoning", "unmatched_options",
    )  # fmt: skip

    kind: str
    asks: str
    question: str
    answer: str
    reasoning: str
    options: Sequence[str]
    correct: int
    keep_letters: bool
    unmatched_options: Sequence[str]


@dataclass
class PreparedExample:
    """A text with its pairs; ``completion`` continues the text and is written right after it."""

    __slots__ = ("completion", "pairs", "text")

    text: str
    completion: PreparedPair | None
    pairs: list[PreparedPair]


def prepare_example(example: Example, templates: Templates, uniform: Callable[[], float]) -> PreparedExample:
    """Prepares ``example``, keeping the order of its pairs."""
    pairs = [_prepare(pair, templates, uniform) for pair in example.pairs]
    completion = None
    if pairs and example.pairs[0].category == TEXT_COMPLETION:
        completion = pairs.pop(0)
        if completion.kind == FREE:
            completion.kind = COMPLETION
    return PreparedExample(example.text, completion, pairs)


def _prepare(pair: Pair, templates: Templates, uniform: Callable[[], float]) -> PreparedPair:
    asks = _asks(pair.question)
    kind = FREE_REASONING if pair.reasoning else FREE
    if pair.options:
        options = distinct(pair.options)
        correct = correct_option(options, pair.answer)
        if correct is not None:
            keep_letters = bool(pair.reasoning) and cites_letter(pair.reasoning)
            if keep_letters and len(options) < len(pair.options):
                # Dropping a duplicate option would shift the letters that the reasoning refers to.
                options, correct = list(pair.options), pair.options.index(options[correct])
            kind = CHOICE_REASONING if pair.reasoning else CHOICE
            return PreparedPair(
                kind, asks, pair.question, options[correct], pair.reasoning, options, correct, keep_letters, ()
            )
        answer = _reword_no_answer(pair.answer, templates, uniform)
        return PreparedPair(kind, asks, pair.question, answer, pair.reasoning, (), 0, False, options)
    answer = pair.answer
    if len(answer) <= templates.longest_mark + _SURROUNDING:
        answer = _reword_no_answer(answer, templates, uniform)
    return PreparedPair(kind, asks, pair.question, answer, pair.reasoning, (), 0, False, ())


def _reword_no_answer(answer: str, templates: Templates, uniform: Callable[[], float]) -> str:
    """Replaces an empty answer, and with probability ``no_answer.share`` a "no answer" mark, by a random wording."""
    if not answer.strip():
        return templates.no_answer_wordings.draw(uniform)
    if normalized_mark(answer) in templates.no_answer_marks and uniform() < templates.no_answer_share:
        return templates.no_answer_wordings.draw(uniform)
    return answer


def _asks(question: str) -> str:
    if question.rstrip().endswith(_QUESTION_MARKS):
        return "question"
    return ANY if any(mark in question for mark in _QUESTION_MARKS) else "instruction"


def shared_condition(conditions: set[str]) -> str:
    """The condition if there is only one, else ``any``."""
    return next(iter(conditions)) if len(conditions) == 1 else ANY
