"""From what a model wrote to subjects and sessions: JSON objects, one by one, whatever stands around them.

The model writes freely first and converts that to JSON lines in a second turn. Each object that can be read counts; a
conversion succeeds if it has at least one. Field names are read leniently, because small models rename them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ipt.synthesis.from_taxonomy.outline.draws import Session
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import clean_name, same_name
from megatron_ipt.synthesis.lenient_json import Broken, clean, read_objects

BROKEN_OBJECT = "broken JSON object"
NAMELESS_OBJECT = "JSON object without a name"
NO_CONCEPTS = "session without concepts"

_SUBJECT_NAMES = ("subject", "subject_name", "name", "title", "course", "topic")
_SESSION_NAMES = ("session", "session_name", "name", "title", "topic", "class")
_LEVELS = ("level", "difficulty", "grade")
_SUBTOPICS = ("subtopics", "sub_topics", "topics", "key_topics", "contents")
_CONCEPTS = ("concepts", "key_concepts", "keyconcepts", "key concepts", "topics", "subtopics")
_PART_NAMES = ("name", "title", "concept", "topic", "subtopic")
_MOST_NAME = 200
_MOST_PARTS = 40
"""Subtopics of a subject or concepts of a session."""
_NUMBERING = re.compile(
    r"^(?:(?:session|class|week|module|unit|lecture|chapter)\s*)?\d{1,3}\s*[.:)\-–]\s+", re.IGNORECASE
)
_OBJECT_LINE = re.compile(r"^([ \t]*)(?:[-*•]|\d{1,3}[.)])?[ \t]*\{", re.MULTILINE)
"""Where a line begins with an object; the group is its indentation."""
_LABEL = re.compile(
    r"^[\s*#_>\"]{0,8}(?:homework )?(?:question|exercise|problem)[\s*_#]{0,4}\d{0,3}[\s*_.)]{0,4}(?::|\n)[\s*_]*",
    re.IGNORECASE,
)
_SESSION_NUMBER = re.compile(r"\bsessions?\s+\d", re.IGNORECASE)


@dataclass(frozen=True)
class Subject:
    """A subject of a discipline, such as a course on it."""

    name: str
    level: str = ""
    subtopics: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name in ids: with its level, because a discipline may have both levels of a subject."""
        return f"{self.name} ({self.level})" if self.level else self.name


def subjects_in(text: str) -> tuple[list[Subject], Counter[str]]:
    """The subjects in a conversion, and what could not be used, by reason."""
    found, unusable = [], Counter[str]()
    for values in _objects(text, _SUBTOPICS, unusable):
        name = _name(values, _SUBJECT_NAMES)
        if name:
            found.append(Subject(name, _first_text(values, _LEVELS)[:60], _parts(values, _SUBTOPICS)))
        else:
            unusable[NAMELESS_OBJECT] += 1
    return found, unusable


def sessions_in(text: str) -> tuple[list[Session], Counter[str]]:
    """The sessions in a conversion, and what could not be used, by reason.

    Sessions with one name are one, and a concept has one wording in all of them.
    """
    unusable = Counter[str]()
    sessions: dict[str, tuple[str, dict[str, None]]] = {}
    wordings: dict[str, str] = {}
    for values in _objects(text, _CONCEPTS, unusable):
        name = _name(values, _SESSION_NAMES)
        concepts = _parts(values, _CONCEPTS)
        if not name:
            unusable[NAMELESS_OBJECT] += 1
        elif not concepts:
            unusable[NO_CONCEPTS] += 1
        else:
            _, own = sessions.setdefault(same_name(name), (name, {}))
            own.update(dict.fromkeys(wordings.setdefault(same_name(concept), concept) for concept in concepts))
    return [Session(name, tuple(own)) for name, own in sessions.values()], unusable


def merge(lists: Iterable[Iterable[Subject]]) -> tuple[list[Subject], int]:
    """The subjects of several lists without repetition, in order of first appearance, and how many were merged.

    Two are the same if their names and levels are, after NFKC, case folding and reducing blanks. The first keeps its
    wording and its subtopics.
    """
    distinct: dict[str, Subject] = {}
    total = 0
    for subject in (subject for subjects in lists for subject in subjects):
        total += 1
        distinct.setdefault(same_name(subject.title), subject)
    return list(distinct.values()), total - len(distinct)


def question_in(text: str) -> str:
    """The question in an answer, without a label such as ``Question 3:`` in front of it."""
    return _LABEL.sub("", clean(text), count=1).strip()


def names_a_session(question: str) -> bool:
    """Whether a question refers to a numbered session, which nobody who only has the question knows."""
    return _SESSION_NUMBER.search(question) is not None


def _objects(text: str, parts: tuple[str, ...], unusable: Counter[str]) -> list[Mapping[str, Any]]:
    """The objects in ``text``, without those in fields ``parts`` of another and those only wrapped around others."""
    kept: dict[int, Mapping[str, Any]] = {}
    for found in (found for piece in _pieces(text) for found in read_objects(piece)):
        if isinstance(found, Broken):
            unusable[BROKEN_OBJECT] += 1
            continue
        own = {name: value for name, value in found.items() if name in parts}
        if any(_inner(value) for name, value in found.items() if name not in own):
            continue
        for inner in (inner for value in own.values() for inner in _inner(value)):
            kept.pop(id(inner), None)
        kept[id(found)] = found
    return list(kept.values())


def _pieces(text: str) -> list[str]:
    """``text``, divided before each of the outermost lines that begin with an object, so that a quotation mark that is
    missing in one object does not swallow the next."""
    lines = list(_OBJECT_LINE.finditer(text))
    outermost = min((len(line[1]) for line in lines), default=0)
    cuts = [0, *(line.start() for line in lines if len(line[1]) == outermost), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def _inner(value: Any) -> list[dict[str, Any]]:
    """Objects in a value, at any depth."""
    if isinstance(value, dict):
        return [value, *(inner for item in value.values() for inner in _inner(item))]
    return [inner for item in value for inner in _inner(item)] if isinstance(value, list) else []


def _name(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    name = _NUMBERING.sub("", _first_text(values, names))
    return name if len(name) <= _MOST_NAME else ""


def _first_text(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of the fields ``names`` that is text; one with letters if there is one, because a number is no name."""
    texts = [text for name in names if isinstance(values.get(name), str) and (text := clean_name(values[name]))]
    return next((text for text in texts if any(map(str.isalpha, text))), texts[0] if texts else "")


def _parts(values: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Different names in the first of the fields ``names`` that has any; a string is divided at ``;`` or commas."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str):
            value = value.split(";" if ";" in value else ",")
        if isinstance(value, list):
            parts: dict[str, str] = {}
            for text in map(_text_of, value):
                if 0 < len(text) <= _MOST_NAME:
                    parts.setdefault(same_name(text), text)
            if parts:
                return tuple(parts.values())[:_MOST_PARTS]
    return ()


def _text_of(item: Any) -> str:
    """A part that is text, or an object with a name."""
    if isinstance(item, dict):
        texts = [item.get(name) for name in _PART_NAMES] + list(item.values())
        item = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    return clean_name(item) if isinstance(item, str) else ""
