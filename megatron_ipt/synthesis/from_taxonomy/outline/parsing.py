"""From what a model wrote to subjects and sessions: JSON objects, one by one, whatever stands around them.

The model writes freely first and converts that to JSON lines in a second turn. Each object that can be read counts; a
conversion succeeds if it has at least one. Field names are read leniently, because small models rename them.
"""

from __future__ import annotations

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
_MOST_NAME = 200
_MOST_PARTS = 40
"""Subtopics of a subject or concepts of a session."""
_NUMBERING = re.compile(
    r"^(?:(?:session|class|week|module|unit|lecture|chapter)\s*)?\d{1,3}\s*[.:)\-–]\s+", re.IGNORECASE
)
_OBJECT_LINE = re.compile(r"^(?=\s*(?:[-*•]|\d{1,3}[.)])?\s*\{)", re.MULTILINE)
"""Where a line begins with an object."""
_LABEL = re.compile(r"^\W*(?:question|exercise|problem|homework question)\W*\d{0,3}\W*(?:\n|:)\s*", re.IGNORECASE)
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
    for values in _objects(text, unusable):
        name = _name(values, _SUBJECT_NAMES)
        if name:
            found.append(Subject(name, _first_text(values, _LEVELS)[:60], _parts(values, _SUBTOPICS)))
        else:
            unusable[NAMELESS_OBJECT] += 1
    return found, unusable


def sessions_in(text: str) -> tuple[list[Session], Counter[str]]:
    """The sessions in a conversion, and what could not be used, by reason."""
    found, unusable = [], Counter[str]()
    for values in _objects(text, unusable):
        name = _name(values, _SESSION_NAMES)
        concepts = _parts(values, _CONCEPTS)
        if not name:
            unusable[NAMELESS_OBJECT] += 1
        elif not concepts:
            unusable[NO_CONCEPTS] += 1
        else:
            found.append(Session(name, concepts))
    return found, unusable


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


def _objects(text: str, unusable: Counter[str]) -> Iterable[Mapping[str, Any]]:
    # Line by line, so that a quotation mark that is missing in one object does not swallow the next.
    for found in (found for part in _OBJECT_LINE.split(text) for found in read_objects(part)):
        if isinstance(found, Broken):
            unusable[BROKEN_OBJECT] += 1
        elif not any(_is_list_of_objects(value) for value in found.values()):
            # An object around the others is no subject or session itself.
            yield found


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _name(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    name = _NUMBERING.sub("", _first_text(values, names))
    return name if len(name) <= _MOST_NAME else ""


def _first_text(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    texts = (values[name] for name in names if isinstance(values.get(name), str))
    return next((text for text in map(clean_name, texts) if text), "")


def _parts(values: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Different names in the first of the fields ``names`` that has any; a string is divided at ``;`` or commas."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str):
            value = value.split(";" if ";" in value else ",")
        if isinstance(value, list):
            parts: dict[str, str] = {}
            for text in (clean_name(item) for item in value if isinstance(item, str)):
                if 0 < len(text) <= _MOST_NAME:
                    parts.setdefault(same_name(text), text)
            if parts:
                return tuple(parts.values())[:_MOST_PARTS]
    return ()
