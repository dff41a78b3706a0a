"""Optional quality filters for the pairs of one text. Pure functions; every drop names its filter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.synthesis.from_text.prompted.language import same_language
from megatron_ipt.synthesis.from_text.prompted.style import Drop
from megatron_ipt.synthesis.pairs import Pair

QUESTION_LENGTH = "question length"
ANSWER_LENGTH = "answer length"
REPETITION = "repeats itself"
UNSUPPORTED = "answer not supported by the text"
LANGUAGE = "other language than the text"

_WORD = re.compile(r"\w+")
_SEGMENT = 4
_LEAST_SEGMENTS = 12
SHORT_WORDS = 12
"""Answers of up to this many words are short, by default."""
_STOP = "a an the of to in on at by for and or is are was were be been it its he she they his her their this that as"
_STOP_WORDS = frozenset(_STOP.split())


@dataclass
class FilterConfig:
    """Which pairs are kept. By default, only broken pairs are dropped."""

    min_question_characters: int = key(3, "Shorter questions are dropped.", minimum=1)
    max_question_characters: int = key(2000, "Longer questions, options included, are dropped.", minimum=1)
    min_answer_characters: int = key(1, "Shorter answers are dropped.", minimum=1)
    max_answer_characters: int = key(4000, "Longer answers, reasoning included, are dropped.", minimum=1)
    max_repetition: float = key(
        0.5,
        "Maximum fraction of the four-word sequences of a pair that occurred earlier in it; 1 allows any.",
        minimum=0,
        maximum=1,
    )
    answer_support: float = key(
        0.0,
        "Minimum fraction of the words of a short answer (excluding stop words) that must occur in the text. 0 "
        "requires none, 1 requires all. Multiple choice, reasoning and yes-or-no answers are exempt.",
        minimum=0,
        maximum=1,
    )
    support_max_words: int = key(
        SHORT_WORDS, "Answers of up to this many words are short in the sense of answer_support.", minimum=1
    )
    same_language: bool = key(False, "Drop pairs that are clearly in a different script or language than their text.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_question_characters > self.max_question_characters:
            yield "min_question_characters", "is above max_question_characters: no question would be kept"
        if self.min_answer_characters > self.max_answer_characters:
            yield "min_answer_characters", "is above max_answer_characters: no answer would be kept"


def filter_pairs(text: str, pairs: list[Pair], config: FilterConfig) -> tuple[list[Pair], list[Drop]]:
    """Pairs that pass every filter, and the others."""
    kept: list[Pair] = []
    drops: list[Drop] = []
    words: frozenset[str] | None = None
    for pair in pairs:
        if config.answer_support and words is None:
            words = frozenset(_words(text))
        reason = _fault(text, words or frozenset(), pair, config)
        if reason is None:
            kept.append(pair)
        else:
            drops.append(Drop(reason, f"{pair.question} :: {pair.answer}"))
    return kept, drops


def _fault(text: str, words: frozenset[str], pair: Pair, config: FilterConfig) -> str | None:
    question_length = len(pair.question) + sum(map(len, pair.options))
    if not config.min_question_characters <= question_length <= config.max_question_characters:
        return QUESTION_LENGTH
    if not config.min_answer_characters <= len(pair.answer) + len(pair.reasoning) <= config.max_answer_characters:
        return ANSWER_LENGTH
    if repetition(f"{pair.question} {pair.reasoning} {pair.answer}") > config.max_repetition:
        return REPETITION
    if config.answer_support and not _is_supported(words, pair, config):
        return UNSUPPORTED
    if config.same_language and not same_language(text, f"{pair.question} {pair.reasoning} {pair.answer}"):
        return LANGUAGE
    return None


def repetition(text: str) -> float:
    """Fraction of the sequences of four words in ``text`` that occurred earlier in it; 0 for short texts."""
    words = text.split()
    count = len(words) - _SEGMENT + 1
    if count < _LEAST_SEGMENTS:
        return 0.0
    return 1 - len(set(zip(*(words[offset:] for offset in range(_SEGMENT))))) / count


def support(words: frozenset[str], answer: str) -> float:
    """Fraction of the words of ``answer`` that are among ``words``; stop words count only if there are no others."""
    said = _words(answer)
    content = [word for word in said if word not in _STOP_WORDS] or said
    return sum(word in words for word in content) / len(content) if content else 1.0


def takes_words_from_text(pair: Pair, most_words: int) -> bool:
    """Whether the answer of ``pair`` is short and of a kind that is worded as its text is."""
    if pair.options or pair.reasoning or re.match(r"(?:yes|no|true|false)\b", pair.answer, re.IGNORECASE):
        return False
    return len(pair.answer.split()) <= most_words


def _is_supported(words: frozenset[str], pair: Pair, config: FilterConfig) -> bool:
    if not takes_words_from_text(pair, config.support_max_words):
        return True
    return support(words, pair.answer) >= config.answer_support


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
