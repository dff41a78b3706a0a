"""Questions that a text asks itself, with what follows as the answer.

The last question of a paragraph, with text before it, is answered by the rest of the paragraph and the next one. The
paragraph after that gives a wrong option that is about the same subject; further wrong options come from other
documents. Every option is the beginning of a paragraph, made in the same way, so that its length does not give the
answer away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from megatron_ipt.synthesis.from_text.mined.grammar import is_balanced
from megatron_ipt.synthesis.from_text.mined.sentences import Sentence
from megatron_ipt.synthesis.from_text.pseudo_labels.prose import joined

SHORTEST_CONTEXT, LONGEST_CONTEXT = 30, 1000
SHORTEST_QUESTION, LONGEST_QUESTION = 10, 200
SHORTEST_OPTION, LONGEST_OPTION = 10, 150
"""In characters."""
EASY_OPTIONS = 2
"""Wrong options from other documents."""

_ODD = re.compile(r"[<>{}|\\_~^*#\[\]…�?\"“”«»]|https?:|www\.|\.\.")


@dataclass(frozen=True, slots=True)
class NaturalQuestion:
    """A question of a text.

    Attributes:
        question: with its mark.
        answer: the right option.
        wrong: an option from the same text.
    """

    question: str
    answer: str
    wrong: str


def natural_questions(text: str, sentences: Sequence[Sentence]) -> Iterator[NaturalQuestion]:
    """The questions of ``text`` that can be asked, at most one for each paragraph."""
    blocks = paragraphs(sentences)
    for number, block in enumerate(blocks):
        asked = [place for place, sentence in enumerate(block) if sentence.stop.strip() == "?"]
        following = blocks[number + 1 : number + 3]
        # A heading ends what belongs to the question.
        if not asked or len(following) < 2 or not all(map(_is_running, (block, *following))):
            continue
        place = asked[-1]
        before = blocks[number - 1][0].start if number else block[0].start
        context = joined(text[before : block[place].start])
        question = joined(text[block[place].start : block[place].end])
        answer = option([*block[place + 1 :], *following[0]])
        wrong = option(following[1])
        if not SHORTEST_CONTEXT <= len(context) <= LONGEST_CONTEXT or not _is_question(block[place], question):
            continue
        if answer and wrong and answer != wrong:
            yield NaturalQuestion(question, answer, wrong)


def paragraphs(sentences: Sequence[Sentence]) -> list[list[Sentence]]:
    return [list(block) for _, block in groupby(sentences, key=lambda sentence: sentence.paragraph)]


def option(sentences: Sequence[Sentence]) -> str:
    """As many of the first sentences as have at most 150 characters together; empty if there is no such option."""
    taken = ""
    for sentence in sentences:
        longer = f"{taken} {sentence.core}{sentence.stop}".lstrip()
        if len(longer) > LONGEST_OPTION:
            break
        if not _is_statement(sentence):
            return ""
        taken = longer
    return taken if len(taken) >= SHORTEST_OPTION else ""


def _is_running(block: Sequence[Sentence]) -> bool:
    """Whether a paragraph is text, not a heading or a list of fragments."""
    return all(sentence.stop for sentence in block)


def _is_statement(sentence: Sentence) -> bool:
    return sentence.stop.strip() in (".", "!") and _is_clean(sentence.core)


def _is_question(sentence: Sentence, question: str) -> bool:
    # The mark itself is not a part of the core; a second one, or a quotation, is not asked.
    whole = sentence.core + sentence.stop
    return SHORTEST_QUESTION <= len(question) <= LONGEST_QUESTION and question == whole and _is_clean(sentence.core)


def _is_clean(core: str) -> bool:
    begins = core[0].isupper() or core[0].isdigit()
    return begins and core.isprintable() and is_balanced(core) and not _ODD.search(core)
