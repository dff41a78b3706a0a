"""Which texts and sentences the rules may use, and how several sentences become one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megatron_ipt.synthesis.from_text.mined.grammar import is_prose, looks_english, stands_alone
from megatron_ipt.synthesis.from_text.mined.sentences import Sentence
from megatron_ipt.synthesis.from_text.prompted.language import dominant_script, guess_language

LONGEST_SENTENCE = 400
"""Characters of a sentence that becomes an answer; a longer one is more often a list or a table."""

_INITIAL = re.compile(r"(?:^|[\s.])[A-Z]$")
_LOOKED_AT = 2000
_FEW_ODD = 0.1
"""Share of characters outside ASCII in English with many names."""


def is_english(text: str, sentences: Sequence[Sentence]) -> bool:
    """Whether ``text`` is English; where its function words leave two languages open, whether they are frequent."""
    beginning = text[:_LOOKED_AT]
    # The names of characters are slow to look up, and most English needs none.
    odd = sum(not each.isascii() for each in beginning) if not beginning.isascii() else 0
    if odd > _FEW_ODD * len(beginning) and dominant_script(beginning) != "LATIN":
        return False
    language = guess_language(text)
    return language == "en" or (language is None and looks_english([each for each in sentences if each.stop]))


def is_plain(sentence: Sentence, shortest: int = 1, longest: int = LONGEST_SENTENCE) -> bool:
    """Whether ``sentence`` can be an answer: finished, with balanced quotes and brackets, without odd characters."""
    # A sentence that ends in a single letter more often ends inside a name: "found by R. Paul Butler".
    if not sentence.core.isprintable() or _INITIAL.search(sentence.core):
        return False
    return is_prose(sentence, shortest, longest)


def leans_back(sentence: Sentence) -> bool:
    """Whether ``sentence`` speaks of something that an earlier one named ("It ...", "However, ...")."""
    # Two words more, because a very short sentence may stand alone as well.
    return not stands_alone(f"{sentence.core} . .")


def joined(text: str) -> str:
    """``text`` on one line, with single blanks."""
    return " ".join(text.split())


def without(text: str, start: int, end: int) -> str:
    """``text`` without the span; the wider of the breaks around it remains, so no two words grow together."""
    before, after = text[:start].rstrip(), text[end:].lstrip()
    if not before or not after:
        return before or after
    breaks = text[len(before) : start], text[end : len(text) - len(after)]
    return before + (max(breaks, key=lambda blank: blank.count("\n")) or " ") + after
