r"""Parses what the model wrote into typed pairs. Pure; whatever is not a pair is returned as a drop with its reason.

A pair is ``<QUE> question <ANS> answer </END>``. A question that ends in ``\nOptions:\n- a\n- b`` is multiple choice;
one that ends in ``\nLet's think step by step.`` is answered with reasoning and ``\nTherefore, the answer is ...``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from megatron_ipt.synthesis.from_text.prompted.marks import (
    ANSWER,
    CONCLUSION,
    END,
    MARKS,
    OPTION_OPEN,
    OPTIONS_OPEN,
    QUESTION,
)
from megatron_ipt.synthesis.from_text.prompted.style import REPEATED, Drop
from megatron_ipt.synthesis.pairs import Pair

_REASONING_REQUEST = re.compile(r"\s*\bLet['’]s think step by step[.:]?\s*$", re.IGNORECASE)
_REQUEST_ENDING = "step by step"
_REQUEST_CHARACTERS = 60
_OPTIONS_WORD = OPTIONS_OPEN.strip()
_MARK = re.compile("|".join(map(re.escape, MARKS)))


CUT_OFF = "cut off by the token limit"
UNFINISHED = "without </END>"
OUTSIDE = "text outside a pair"
MALFORMED = "marks out of order"
NO_QUESTION = "empty question"
NO_ANSWER = "empty answer"
COPIED = "copied from the example in the prompt"
NOT_AN_OPTION = "answer not among the options"
BAD_OPTIONS = "fewer than two options"
NOTHING_FOUND = "no question with an answer in the output"


def parse_answer(text: str, finished: bool = True) -> tuple[list[Pair], list[Drop]]:
    """Pairs of one answer in order, and what was dropped.

    Args:
        text: as generated after ``</CON>``, without EOS.
        finished: False when the token limit ended it.
    """
    *chunks, rest = text.split(END)
    drops: list[Drop] = []
    pairs = distinct((_parse_chunk(chunk, drops) for chunk in chunks), drops)
    if rest.strip():
        drops.append(Drop(UNFINISHED if finished else CUT_OFF, rest.strip()))
    return pairs, drops


def distinct(found: Iterable[Pair | Drop], drops: list[Drop], shown: Iterable[Pair] = ()) -> list[Pair]:
    """The pairs of ``found`` whose questions are neither repeated nor in ``shown``; the rest is added to ``drops``.

    Args:
        shown: pairs in the prompt; a model that repeats one has not read the text.
    """
    copied = {question_key(pair.question) for pair in shown}
    pairs: dict[str, Pair] = {}
    for result in found:
        if isinstance(result, Drop):
            drops.append(result)
            continue
        name = question_key(result.question)
        if name in copied:
            drops.append(Drop(COPIED, result.question))
        elif name in pairs:
            drops.append(Drop(REPEATED, result.question))
        else:
            pairs[name] = result
    return list(pairs.values())


def question_key(question: str) -> str:
    """Equal for questions that differ only in case and spacing."""
    return " ".join(question.casefold().split())


def _parse_chunk(chunk: str, drops: list[Drop]) -> Pair | Drop:
    outside, mark, body = chunk.partition(QUESTION)
    if not mark:
        return Drop(MALFORMED, chunk.strip())
    question, mark, answer = body.partition(ANSWER)
    # Few texts hold the character themselves, and counting it costs next to nothing.
    if not mark or (chunk.count("<") > 2 and len(_MARK.findall(chunk)) > 2):
        return Drop(MALFORMED, chunk.strip())
    if outside.strip():
        drops.append(Drop(OUTSIDE, outside.strip()))
    return typed_pair(question.strip(), answer.strip())


def typed_pair(question: str, answer: str) -> Pair | Drop:
    """A question and its answer as written, with options and reasoning recognised."""
    written = question
    asked = 0
    if _REQUEST_ENDING in question[-_REQUEST_CHARACTERS:].lower():
        question, asked = _REASONING_REQUEST.subn("", question)
    reasoning, found, conclusion = answer.rpartition(CONCLUSION)
    if not found and asked:
        # Some answers put the conclusion on the line of the last step.
        reasoning, found, conclusion = answer.rpartition(CONCLUSION.strip() + " ")
    if found and reasoning.strip():
        answer = conclusion.strip()
        reasoning = reasoning.strip()
    else:
        reasoning = ""
    question, options = _split_options(question)
    if not question:
        return Drop(NO_QUESTION, written or answer)
    if not answer:
        return Drop(NO_ANSWER, question)
    if options is None:
        return Pair(question, answer, reasoning=reasoning)
    if len(options) < 2:
        return Drop(BAD_OPTIONS, written)
    # Options differ in more than case and spacing, so at most one of them is written like the answer.
    right = answer if answer in options else {_loose(option): option for option in options}.get(_loose(answer))
    if right is None:
        return Drop(NOT_AN_OPTION, f"{answer} :: {' | '.join(options)}")
    return Pair(question, right, options=options, reasoning=reasoning)


def _split_options(question: str) -> tuple[str, tuple[str, ...] | None]:
    """The question without its options, and the options without duplicates; None if it has no list of options."""
    if _OPTIONS_WORD not in question:
        return question.strip(), None
    stem, mark, block = f"\n{question}\n".rpartition(OPTIONS_OPEN)
    if not mark:
        return question.strip(), None
    lines = [line.strip() for line in block.strip().split("\n") if line.strip()]
    bullet = OPTION_OPEN.strip()
    if not all(line.startswith(bullet) for line in lines):
        return question.strip(), None
    options = [line[len(bullet) :].strip() for line in lines]
    distinct = {_loose(option): option for option in reversed(options) if option}
    return stem.strip(), tuple(reversed(distinct.values()))


def _loose(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
