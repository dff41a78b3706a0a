"""Typed values in a sentence: years, numbers of things, names, content words.

They become gaps and options. All options of a question are values of one type from the same text, so that none is
nonsense and none is invented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_ipt.synthesis.from_text.mined.expressions import NUMBER_WORD, UNIT, YEAR
from megatron_ipt.synthesis.from_text.mined.lexicon import (
    ADJECTIVE_ENDINGS,
    BEFORE_NAME,
    BEFORE_YEAR,
    GENERIC,
    NOT_COUNTED,
    NOT_NAMES,
)


@dataclass(frozen=True, slots=True)
class Value:
    """A typed piece of a sentence.

    Attributes:
        kind: ``year``, ``number`` or ``name``.
        text: as written.
        start: its place in the sentence's core.
        group: values of one kind and group may stand for each other: a name after "in", a number of metres.
    """

    kind: str
    text: str
    start: int
    group: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


_VALUE = re.compile(
    rf"(?<= )(?P<year>{YEAR})(?![\d%]|[.,:–-]\d| @| [–-] \d|s\b| (?:{UNIT}|million|billion|[a-z]+s)\b)|"
    rf"(?<![,.]@)(?<= )(?<!@ )(?P<number>\d{{1,3}}(?:,\d{{3}})*(?:\.\d+)?|{NUMBER_WORD}) (?P<things>per cent|"
    rf"percent|million|[a-z]{{3,}})(?![\w-])|"
    r"(?<=[a-z] )(?P<name>[A-Z][a-zà-ÿ]+(?:-[A-Z]?[a-z]+)?(?: (?:of the |of |de |von |van "
    r")?[A-Z][a-zà-ÿ]+){0,4})(?![\w’'-]| ['’]s| @| (?:(?:of|in|the|and|for|on|at) )?[A-Z0-9])"
)


def find_values(core: str) -> list[Value]:
    """The typed values of a sentence, in order."""
    values = []
    for match in _VALUE.finditer(core):
        kind = match.lastgroup or ""
        if kind == "year":
            before = core[: match.start()].rsplit(None, 1)[-1].lower().strip("(,")
            if before in BEFORE_YEAR:
                values.append(Value("year", match["year"], match.start(), ""))
        elif kind == "things":
            if match["things"] not in NOT_COUNTED and match["number"] not in ("two", "three", "1"):
                values.append(Value("number", match["number"], match.start(), match["things"]))
        else:
            name = match["name"]
            last = name.rsplit(None, 1)[-1].lower()
            if last in NOT_NAMES or (" " not in name and last.endswith(ADJECTIVE_ENDINGS)) or len(name) < 4:
                continue
            ahead = core[: match.start()].split()
            # A capital just before, or before "of", shows that the name began earlier.
            if ahead[-1].lstrip("\"“'")[:1].isupper() or (
                len(ahead) > 1 and ahead[-1] in ("of", "in", "and") and ahead[-2][0].isupper()
            ):
                continue
            before = ahead[-1].lower()
            values.append(Value("name", name, match.start(), before if before in BEFORE_NAME else ""))
    return values


_WORD = re.compile(r"(?<![\w’'@.-])[a-zà-ÿ]{7,}(?![\w’'@-])")


def telling_words(core: str) -> list[str]:
    """Long words that say what a sentence is about, each once, in order; no adverbs, no words of every text."""
    found = dict.fromkeys(_WORD.findall(core))
    return [word for word in found if word not in GENERIC and not word.endswith("ly")]


def keyword_count(words: int) -> int:
    """Keywords of a sentence of so many words: a fifth of them, at least three (UDIT, EMNLP 2022)."""
    return max(3, -(-words // 5))
