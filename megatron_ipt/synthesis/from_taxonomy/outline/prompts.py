"""The prompts, read from YAML; ``prompts.yaml`` beside this module holds the built-in ones and says what the keys mean.
All problems of a file are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError, did_you_mean
from megatron_ipt.synthesis.from_taxonomy.outline.strict_yaml import read_yaml

BUILT_IN = Path(__file__).with_name("prompts.yaml")

SUBJECTS, SUBJECTS_AS_JSON = "subjects", "subjects_as_json"
SYLLABUS, SYLLABUS_AS_JSON = "syllabus", "syllabus_as_json"
QUESTION, QUESTION_ON_TWO = "question", "question_on_two_sessions"
ANSWER = "answer"

_DISCIPLINE = ("field", "sub_field", "discipline")
_SUBJECT = (*_DISCIPLINE, "subject", "level")


@dataclass(frozen=True)
class _Slots:
    """Names that a prompt may fill in, and those that its user message must have."""

    known: tuple[str, ...]
    required: tuple[str, ...]


_SLOTS = {
    SUBJECTS: _Slots(_DISCIPLINE, ("discipline",)),
    SUBJECTS_AS_JSON: _Slots((), ()),
    SYLLABUS: _Slots((*_SUBJECT, "subtopics"), ("subject",)),
    SYLLABUS_AS_JSON: _Slots((), ()),
    QUESTION: _Slots((*_SUBJECT, "syllabus", "session", "concepts"), ("syllabus", "session", "concepts")),
    QUESTION_ON_TWO: _Slots(
        (*_SUBJECT, "syllabus", "first_session", "second_session", "concepts"),
        ("syllabus", "first_session", "second_session", "concepts"),
    ),
    ANSWER: _Slots(("question",), ("question",)),
}
_SLOT = re.compile(r"\{([A-Za-z_ ]{1,40})\}")
"""A JSON object in a prompt is no slot: its first name is in quotation marks."""
_KEYS = ("system", "user")


@dataclass(frozen=True)
class PromptText:
    """System and user message of one prompt, with slots."""

    system: str
    user: str

    def fill(self, values: Mapping[str, str]) -> tuple[str, str]:
        """System and user message with ``values`` in the slots; a value is never searched for slots itself."""
        return tuple(_SLOT.sub(lambda match: values[match[1]], text) for text in (self.system, self.user))  # type: ignore[return-value]


@dataclass(frozen=True)
class Prompts:
    """All prompts by name, and variables of the chat template."""

    texts: Mapping[str, PromptText]
    variables: Mapping[str, Any]


def read_prompts(path: Path | None) -> Prompts:
    """The prompts in ``path``, with built-in ones for what it leaves out.

    Raises:
        RecipeError: lists everything that is wrong with the file.
    """
    built_in = _built_in()
    if path is None:
        return _prompts(built_in)
    content = read_yaml(path, "taxonomy.prompts")
    problems = list(_problems(content)) if isinstance(content, dict) else ["expected a mapping of prompts"]
    if problems:
        raise RecipeError("\n".join(f"taxonomy.prompts: {path}: {problem}" for problem in problems))
    return _prompts({**built_in, **content})


def _prompts(content: Mapping[str, Any]) -> Prompts:
    texts = {name: PromptText(str(content[name].get("system", "")).strip(), content[name]["user"]) for name in _SLOTS}
    return Prompts(texts, content.get("template_variables") or {})


@cache
def _built_in() -> dict[str, Any]:
    content = read_yaml(BUILT_IN, "taxonomy.prompts")
    assert isinstance(content, dict)
    return content


def _problems(content: dict[Any, Any]) -> Iterator[str]:
    for name, entry in content.items():
        if name == "template_variables":
            if not isinstance(entry, dict):
                yield f"{name}: expected a mapping"
        elif name not in _SLOTS:
            yield f"{name}: not one of {', '.join(_SLOTS)}.{did_you_mean(str(name), _SLOTS)}"
        elif not isinstance(entry, dict) or not isinstance(entry.get("user"), str) or not entry["user"].strip():
            yield f"{name}: expected a mapping with a message user"
        else:
            yield from _prompt_problems(name, entry)


def _prompt_problems(name: str, entry: dict[Any, Any]) -> Iterator[str]:
    slots = _SLOTS[name]
    for key, text in entry.items():
        if key not in _KEYS:
            yield f"{name}.{key}: not one of {', '.join(_KEYS)}.{did_you_mean(str(key), _KEYS)}"
        elif not isinstance(text, str):
            yield f"{name}.{key}: expected text"
        else:
            for slot in _SLOT.findall(text):
                if slot not in slots.known:
                    known = ", ".join(f"{{{known}}}" for known in slots.known) or "nothing"
                    yield f"{name}.{key}: {{{slot}}} cannot be filled in here; {known} can"
    for slot in slots.required:
        if f"{{{slot}}}" not in entry["user"]:
            yield f"{name}.user: {{{slot}}} is missing"
