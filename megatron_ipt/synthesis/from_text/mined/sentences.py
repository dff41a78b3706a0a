"""Sentences of a text, with their places in it.

A general sentence splitter is slow (pysbd: a few hundred texts per second) and repairs its input. Mining needs only
reliable sentences, so this splitter is small and, when in doubt, leaves two sentences joined; odd sentences are skipped
later. It handles ordinary prose, hard-wrapped lines, and prose with spaces around punctuation, as in WikiText. Time is
linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.synthesis.from_text.mined.lexicon import (
    BEFORE_LETTER,
    BEFORE_NUMBER,
    MAY_BE_LAST,
    NEVER_LAST,
    OPENERS,
)

_LINE = re.compile(r"[^\n\r\v\f\u2028\u2029]+")
# A run of marks is tried once, from its first: otherwise one that ends no sentence takes quadratic time.
_MARK = re.compile(r"(?<![.!?])(?P<mark>[.!?]+)(?P<after>(?:[\"'”’»)\]]|\[\d+\]|:\d[\d,–-]*)*)(?=\s|$)")
_NEXT_WORD = re.compile(r"\s*[\"'“‘«(\[]*\s?(\w*)")
_CLOSING_QUOTE = re.compile(r" [\"”](?=\s|$)")
_INNER_DOTS = re.compile(r"(?:\w\.)+\w$")
_BULLET = re.compile(r"\s*(?:[-*•–#=|>]|\d+[.)]\s)")

_WRAPPED_LINE = range(50, 121)
"""Lengths of a line that the next one may continue; shorter is a heading or an item, longer a whole paragraph."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence.

    Attributes:
        start, end: its span in the text.
        paragraph: number of the paragraph it stands in.
        core: its words without the final mark, runs of white space made one blank.
        stop: the final mark as it is to be written after a quotation (``.`` or, set apart, `` .``); empty if none.
    """

    start: int
    end: int
    paragraph: int
    core: str
    stop: str


def split(text: str, start: int = 0) -> list[Sentence]:
    """The sentences and fragments (headings, unfinished lines: ``stop`` is empty) of ``text`` from ``start`` on."""
    sentences = []
    for number, (first, last) in enumerate(_paragraphs(text, start)):
        for begin, end, mark in _spans(text, first, last):
            core = " ".join(text[begin:end].split())
            stop = ""
            if mark is not None:
                core = " ".join(text[begin : mark.start()].split())
                closing = text[mark.end("mark") : end].replace(" ", "")[:1]
                if closing and closing in "\"”)’'»":
                    # The mark stands inside a quotation or parentheses: the sentence is not plain.
                    core += closing
                stop = mark["mark"][:1]
                if text[mark.start() - 1 : mark.start()] == " ":
                    stop = " " + stop
            if core:
                sentences.append(Sentence(begin, end, number, core, stop))
    return sentences


def _paragraphs(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Spans of lines that belong together."""
    first = last = -1
    for line in _LINE.finditer(text, start):
        content = line.group().strip()
        if first >= 0 and content and not _BULLET.match(content):
            gap = text[last : line.start()]
            length = last - max(text.rfind("\n", first, last) + 1, first)
            if len(gap) <= 2 and gap.count(gap[0]) == 1 and length in _WRAPPED_LINE:
                last = line.end()
                continue
        if first >= 0:
            yield first, last
        first, last = (line.start(), line.end()) if content else (-1, -1)
    if first >= 0:
        yield first, last


def _spans(text: str, first: int, last: int) -> Iterator[tuple[int, int, re.Match[str] | None]]:
    begin = first
    for mark in _MARK.finditer(text, first, last):
        if mark.start() < begin or not _ends_sentence(text, begin, mark, last):
            continue
        end = mark.end()
        closing = _CLOSING_QUOTE.match(text, end, last)
        if closing and end - begin < 2000 and text.count('"', begin, end) % 2:
            end = closing.end()
        while begin < end and text[begin].isspace():
            begin += 1
        yield begin, end, mark
        begin = end
    while begin < last and text[begin].isspace():
        begin += 1
    while last > begin and text[last - 1].isspace():
        last -= 1
    if begin < last:
        yield begin, last, None


def _ends_sentence(text: str, begin: int, mark: re.Match[str], last: int) -> bool:
    at = mark.start()
    following = _NEXT_WORD.match(text, mark.end(), last)
    word = following[1] if following else ""
    if not word:
        return True
    if word[0].islower():
        return False
    if text[at - 1 : at].isspace() or mark["mark"] != ".":
        return True
    tokens = text[max(begin, at - 16) : at].split()
    token = tokens[-1].lstrip("\"'“‘(") if tokens else ""
    lower = token.lower()
    if lower in NEVER_LAST or (lower in BEFORE_NUMBER and word[0].isdigit()):
        return False
    if token.isdigit() and not text[begin : at - len(token)].strip():
        return False
    if len(token) == 1 and len(tokens) > 1 and tokens[-2].lower() in BEFORE_LETTER:
        return True
    if lower in MAY_BE_LAST or _INNER_DOTS.match(token) or (len(token) == 1 and token.isalpha()):
        return word.lower() in OPENERS and word[0].isupper()
    return True
