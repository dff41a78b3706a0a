r"""Formats of files with pairs, as functions from one record to a text with its pairs.

A SQuAD paragraph is a text with its questions. A problem of GSM8K or AQuA has no text beside itself; several of them
make one example with an empty text, as worked problems one after another. Calculator notes (``<<48/2=24>>``) and
references to the letter of an option are taken out of the reasoning: options are shuffled and relettered later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from megatron_ipt.synthesis.pairs import Pair

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LETTERED = re.compile(r"^\s*\(?([A-E])\s*[).:]\s*")
_OPENING = r"\s*(?:\b(?:so|hence|thus|therefore|and)\b[, ]*)?(?:\bthe\s+)?(?:\bcorrect\s+)?"
_LETTER = r"(?:\s*(?:\bis\b|\boption\b|\bchoice\b|[-:=.(\[]))*\s*(?-i:[A-E])"
_FINAL_LETTER = re.compile(
    rf"{_OPENING}\b(?:answer|ans)\b{_LETTER}(?:\b[^\n]{{0,40}})?$"
    rf"|{_OPENING}\b(?:option|choice)\b{_LETTER}[\])]?\s*[.!]*\s*$"
    r"|(?:^|\n)\s*(?-i:[(\[]?[A-E][\])]?)\s*[.!]*\s*$",
    re.IGNORECASE,
)
_LETTER_REFERENCE = re.compile(
    r"\b(?i:options?|answers?|ans|choices?|statements?)\b(?:\s+(?:choice|option|is|are))*\s*[-:=.]?\s*[\(\[]?[A-E]\b(?!['’])|"
    r"(?:^|\s)[\(\[][A-E][\)\]](?=[\s.,;:]|$)"
)

Problem = tuple[Pair | None, str]
"""A pair, or None and why there is none."""


def format_of(record: Any) -> str | None:
    """The format that a file's first record is in; None when unknown."""
    if not isinstance(record, dict):
        return None
    if "data" in record or "paragraphs" in record:
        return "squad"
    if "examples" in record:
        return "chains"
    if {"question", "options", "correct"} <= record.keys():
        return "aqua"
    if {"question", "answer"} <= record.keys():
        return "gsm8k"
    return None


def squad_paragraphs(record: Any) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(title, context, questions) of every paragraph of a SQuAD file."""
    for article in record.get("data", [record]):
        for paragraph in article.get("paragraphs", []):
            yield article.get("title", ""), paragraph["context"], paragraph.get("qas", [])


def squad_pair(question: dict[str, Any]) -> Problem:
    answers = [answer["text"].strip() for answer in question.get("answers", []) if answer.get("text", "").strip()]
    if question.get("is_impossible") or not answers:
        return None, "unanswerable question"
    if not question["question"].strip():
        return None, "empty question"
    return Pair(question["question"].strip(), answers[0]), ""


def gsm8k_pair(record: dict[str, Any]) -> Problem:
    reasoning, mark, answer = record["answer"].rpartition("####")
    if not mark:
        # Question and answer without steps are pairs as well.
        reasoning, answer = "", record["answer"]
    if not record["question"].strip() or not answer.strip():
        return None, "empty question or answer"
    return Pair(record["question"].strip(), answer.strip(), reasoning=_CALCULATOR.sub("", reasoning).strip()), ""


def aqua_pair(record: dict[str, Any]) -> Problem:
    options = {}
    for number, option in enumerate(record["options"]):
        match = _LETTERED.match(option)
        letter = match[1] if match else "ABCDE"[number]
        options[letter] = _LETTERED.sub("", option).strip()
    right = options.get(record["correct"].strip())
    if not right or not record["question"].strip():
        return None, "no right option or no question"
    distinct = tuple(dict.fromkeys(option for option in options.values() if option))
    if len(distinct) < 2:
        return None, "fewer than two options"
    reasoning = without_letters(record.get("rationale", ""))
    return Pair(record["question"].strip(), right, options=distinct, reasoning=reasoning), ""


def without_letters(rationale: str) -> str:
    """The rationale without its closing "Answer: C"; empty when it goes on speaking of options by letter."""
    earlier = None
    text = rationale.strip()
    while text != earlier:
        earlier = text
        text = _FINAL_LETTER.sub("", text).strip()
    return "" if _LETTER_REFERENCE.search(text) else text
