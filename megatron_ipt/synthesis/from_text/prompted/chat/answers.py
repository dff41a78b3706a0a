"""Answers of chat models to pairs. Pure, never raises; whatever does not become a pair is a drop with a reason.

``pairs_of_records`` reads objects with a question and an answer, as JSON in any state of repair, else as labelled prose
(``1. Question: ... Answer: ...``). ``pair_of_text`` takes the whole answer as the response to an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from megatron_ipt.synthesis.from_text.prompted.parsing import (
    BAD_OPTIONS,
    CUT_OFF,
    NO_ANSWER,
    NO_QUESTION,
    NOT_AN_OPTION,
    NOTHING_FOUND,
    distinct,
)
from megatron_ipt.synthesis.from_text.prompted.style import Drop
from megatron_ipt.synthesis.lenient_json import MOST_CHARACTERS, Broken, clean, read_objects
from megatron_ipt.synthesis.pairs import Pair

BROKEN_JSON = "broken JSON"
TOO_MUCH = f"output beyond {MOST_CHARACTERS:,} characters"

_SAMPLE = 500
FIELDS = {
    "question": ("question", "q", "instruction", "prompt", "query", "task"),
    "answer": ("answer", "a", "response", "correct_answer", "output", "solution", "correct"),
    "options": ("options", "choices"),
    "reasoning": ("reasoning", "explanation", "rationale", "steps"),
}
"""What models call the fields of a pair."""
_FIELD_OF = {name: field for field, names in FIELDS.items() for name in names}
_SHORT = frozenset(("q", "a"))
"""Names that are also letters of options: they count only together."""
_NAME = re.compile(r"([a-z_ -]*[a-z])[ _-]?(\d{0,3})")
_LETTERED = re.compile(r"\(?([A-Ha-h])[.):]\s+(.+)", re.DOTALL)
_LETTER = re.compile(r"(?:option\s+)?\(?([A-Ha-h])\)?[.):]?", re.IGNORECASE)
_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\Z", re.DOTALL)
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok)\b[^\n]{0,200}[:!.]|here(?:'s| is| are)\b[^\n]{0,200}:"
    r"|[^\n]{0,100}\bas follows:)\s*\n",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:^[ \t>#*_-]*(?:\d{1,3}\s*[.)]\s*)?[*_]*"
    r"(?P<line>question|answer|response|options|choices|reasoning|explanation|q|a)"
    r"|(?<=\s)(?P<inline>(?-i:Question|Answer|Reasoning|Options)))\s*\d{0,3}[*_]*\s*:[*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_TRAILING = re.compile(r"(?:\n\s*(?:\d{1,3}[.)]|[-*_#=]{2,})\s*)+\Z")
_THOUGHT_END, _THOUGHT = "</think>", "<think>"


def pairs_of_records(answer: str, finished: bool, examples: Iterable[Pair] = ()) -> tuple[list[Pair], list[Drop]]:
    """Pairs of an answer that should be a list of objects, in order, and what was dropped.

    Args:
        answer: text of a completion, of any length.
        finished: False when the token limit ended it.
        examples: pairs shown in the prompt; a model that repeats one has not read the text.
    """
    text, drops = _spoken(answer, finished)
    found = list(_from_json(text, finished)) or list(_from_prose(text, finished))
    pairs = distinct(found, drops, shown=examples)
    if not found and not drops and answer.strip():
        drops.append(Drop(NOTHING_FOUND if finished else CUT_OFF, answer.strip()[:_SAMPLE]))
    return pairs, drops


def pair_of_text(answer: str, finished: bool, question: str) -> tuple[list[Pair], list[Drop]]:
    """The whole answer as the response to the instruction ``question``, without a fence or an announcement."""
    text, drops = _spoken(answer, finished)
    if not finished:
        return [], [*drops, Drop(CUT_OFF, text[:_SAMPLE])]
    text = _PREAMBLE.sub("", text).strip()
    fenced = _FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        return [], [*drops, *([Drop(NO_ANSWER, answer[:_SAMPLE])] if answer.strip() else [])]
    return [Pair(question, text)], drops


def _spoken(answer: str, finished: bool) -> tuple[str, list[Drop]]:
    """The answer without what a reasoning model thought before it, and without what no reader wants to see."""
    drops = []
    if len(answer) > MOST_CHARACTERS:
        drops.append(Drop(TOO_MUCH, answer[MOST_CHARACTERS : MOST_CHARACTERS + _SAMPLE]))
        answer = answer[:MOST_CHARACTERS]
    text = clean(answer.rpartition(_THOUGHT_END)[2])
    if text.startswith(_THOUGHT) and not finished:
        return "", [*drops, Drop(CUT_OFF, text[:_SAMPLE])]
    return text, drops


def _from_json(text: str, finished: bool) -> Iterator[Pair | Drop]:
    for found in read_objects(text):
        if isinstance(found, Broken):
            records = _records(found.values)
            if finished and found.between and records:
                yield from map(_pair_of, records)
            else:
                cut = found.ended and not finished
                yield Drop(CUT_OFF if cut else BROKEN_JSON, clean(found.text))
        else:
            yield from map(_pair_of, _records(found))


def _records(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fields by their standard names; several records where they are numbered, none for an object of another kind."""
    records: dict[str, dict[str, Any]] = {}
    short: dict[str, set[str]] = {}
    for name, value in values.items():
        match = _NAME.fullmatch(name.strip(" *_"))
        key = match[1].replace(" ", "_").replace("-", "_") if match else ""
        if match is None or key not in _FIELD_OF:
            continue
        if key in _SHORT:
            short.setdefault(match[2], set()).add(key)
        records.setdefault(match[2], {}).setdefault(_FIELD_OF[key], value)
    kept = []
    for number, record in records.items():
        of_letters = short.get(number, set())
        named = "question" in record or "answer" in record
        if named and (not of_letters or of_letters == _SHORT or record.keys() >= {"question", "answer"}):
            kept.append(record)
    return kept


def _pair_of(record: Mapping[str, Any]) -> Pair | Drop:
    question, answer = _text(record.get("question")), _text(record.get("answer"))
    options = _options(record.get("options"))
    if not options:
        question, options = _options_below(question)
    # A weak model fills in "..." as it stands in the prompt.
    if not _says_something(question):
        return Drop(NO_QUESTION, answer[:_SAMPLE])
    if not _says_something(answer):
        return Drop(NO_ANSWER, question[:_SAMPLE])
    reasoning = _text(record.get("reasoning"))
    if not options:
        return Pair(question, answer, reasoning=reasoning)
    right = _option_meant(answer, options)
    options = tuple(dict.fromkeys(options))
    if len(options) < 2:
        return Drop(BAD_OPTIONS, question[:_SAMPLE])
    if right is None:
        return Drop(NOT_AN_OPTION, f"{answer} :: {' | '.join(options)}"[:_SAMPLE])
    return Pair(question, right, options=options, reasoning=reasoning)


def _says_something(text: str) -> bool:
    return any(character not in ".…<>[](){}_-*" and not character.isspace() for character in text)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return clean(value) if isinstance(value, str) else ""


def _options(value: Any) -> tuple[str, ...]:
    """Options without their letters."""
    if isinstance(value, dict):
        value = list(value.values())
    items = value.split("\n") if isinstance(value, str) else value if isinstance(value, list) else []
    options = [text for text in (_text(item).lstrip("-*• ") for item in items) if text]
    lettered = [_LETTERED.fullmatch(option) for option in options]
    if all(match and _number_of(match[1]) == place for place, match in enumerate(lettered)):
        options = [match[2].strip() for match in lettered if match]
    return tuple(options)


def _options_below(question: str) -> tuple[str, tuple[str, ...]]:
    """A question and the lettered options in its last lines."""
    lines = question.split("\n")
    first = len(lines)
    while first > 1 and (not lines[first - 1].strip() or _LETTERED.fullmatch(lines[first - 1].strip())):
        first -= 1
    options = _options([line.strip() for line in lines[first:]])
    if len(options) < 2:
        return question, ()
    stem = re.sub(r"\n?\s*(?:options|choices)\s*:\s*\Z", "", "\n".join(lines[:first]), flags=re.IGNORECASE)
    return stem.strip(), options


def _option_meant(answer: str, options: tuple[str, ...]) -> str | None:
    """The option that ``answer`` is: written out, with its letter, or the letter alone."""
    by_wording = {_loose(option): option for option in reversed(options)}
    lettered = _LETTERED.fullmatch(answer)
    for wording in (answer, lettered[2] if lettered else answer):
        if _loose(wording) in by_wording:
            return by_wording[_loose(wording)]
    letter = _LETTER.fullmatch(answer.strip())
    if letter and _number_of(letter[1]) < len(options):
        return options[_number_of(letter[1])]
    return None


def _number_of(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _loose(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _from_prose(text: str, finished: bool) -> Iterator[Pair | Drop]:
    """Pairs of labelled lines; the last one is unfinished if the token limit ended the answer."""
    labels = list(_LABEL.finditer(text))
    records: list[dict[str, Any]] = []
    for label, after in zip(labels, [*labels[1:], None]):
        content = (
            _TRAILING.sub("", text[label.end() : after.start() if after else len(text)]).strip().strip("*_").strip()
        )
        field = _FIELD_OF[(label["line"] or label["inline"]).lower()]
        if field == "question" or not records:
            records.append({})
        records[-1].setdefault(field, content)
    if records and not finished:
        last = records.pop()
        yield from map(_pair_of, records)
        yield Drop(CUT_OFF, " ".join(map(str, last.values()))[:_SAMPLE])
        return
    yield from map(_pair_of, records)
