"""Schema of template files, as tables, and the reader that checks a file against it.

All problems of a file are reported at once, each with file, key and entry number.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from megatron_ipt.augment.options import LETTERINGS
from megatron_ipt.augment.patterns import Pattern, PatternError, compile_pattern
from megatron_ipt.errors import RecipeError, did_you_mean, nearest

ASKS = ("question", "instruction")
PAIRS = ("one", "several")
OPTIONS = ("lines", "inline")


@dataclass(frozen=True)
class Slots:
    """Slots of a pattern: ``a|b`` requires at least one of the two; with ``ordered``, slots must be in this order."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    ordered: bool = False

    def problems(self, pattern: Pattern) -> Iterator[str]:
        groups = [group.split("|") for group in self.required]
        known = [slot for group in groups for slot in group] + list(self.optional)
        unknown = [slot for slot in pattern.slots if slot not in known]
        meant = {slot: nearest(slot, known) for slot in unknown}
        for slot, near in meant.items():
            hint = f" Did you mean {{{near}}}?" if near else ""
            yield f"unknown slot {{{slot}}}; valid here: {', '.join(f'{{{name}}}' for name in known)}.{hint}"
        named = {*pattern.slots, *meant.values()}
        for group in groups:
            if not named.intersection(group):
                yield f"missing slot {' or '.join(f'{{{slot}}}' for slot in group)}"
        found = [slot for slot in pattern.slots if slot in known]
        wanted = [slot for slot in known if slot in found]
        if self.ordered and found != wanted:
            yield f"slots out of order; {' must come before '.join(f'{{{slot}}}' for slot in wanted)}"


@dataclass(frozen=True)
class Kind:
    """A list of entries: patterns by field, and other fields. An entry given as a string is the first pattern.

    ``choices`` maps a field to its valid values (empty: any string). ``literal`` names a field whose text is used
    verbatim, without slots.
    """

    patterns: dict[str, Slots] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    literal: str = ""

    @property
    def main(self) -> str:
        return self.literal or next(iter(self.patterns))


_PAIR_FIELDS: dict[str, tuple[str, ...]] = {"asks": ASKS, "separator": ()}
_CHOICE_FIELDS = _PAIR_FIELDS | {"options": OPTIONS}
_FRAME_FIELDS = {"asks": ASKS, "pairs": PAIRS}
_CORRECT = "answer|letter|choice"

KINDS: dict[str, Kind] = {
    "text_separators": Kind(literal="text"),
    "patterns.free": Kind({"pattern": Slots(("question", "answer"))}, _PAIR_FIELDS),
    "patterns.choice": Kind({"pattern": Slots(("question", "options", _CORRECT))}, _CHOICE_FIELDS),
    "patterns.free_reasoning": Kind({"pattern": Slots(("question", "reasoning", "answer"))}, _PAIR_FIELDS),
    "patterns.choice_reasoning": Kind(
        {"pattern": Slots(("question", "options", "reasoning", _CORRECT))}, _CHOICE_FIELDS
    ),
    "patterns.completion": Kind({"pattern": Slots(("question", "answer"), ordered=True)}, _PAIR_FIELDS),
    "apart.choice_question": Kind({"pattern": Slots(("question", "options"))}, {"options": OPTIONS}),
    "apart.unmatched_question": Kind({"pattern": Slots(("question", "options"), ordered=True)}),
    "apart.choice_answer": Kind({"pattern": Slots((_CORRECT,))}),
    "apart.reasoning_question": Kind({"pattern": Slots(("question",))}),
    "apart.reasoning_answer": Kind({"pattern": Slots(("reasoning", "answer"))}),
    "option_styles": Kind(
        {"item": Slots(("option",), ("letter",))}, {"letters": tuple(LETTERINGS), "bullet": (), "join": ()}
    ),
    "no_answer.wordings": Kind(literal="text"),
    "plain.frames": Kind({"pattern": Slots(("text", "pairs"), ordered=True)}, _FRAME_FIELDS),
    "plain.frames_text_last": Kind({"pattern": Slots(("pairs", "text"), ordered=True)}, _FRAME_FIELDS),
    "dialogue.frames": Kind({"pattern": Slots(("text", "pairs"), ordered=True)}, _FRAME_FIELDS),
    "dialogue.frames_text_last": Kind({"pattern": Slots(("pairs", "text"), ordered=True)}, _FRAME_FIELDS),
    "dialogue.turns": Kind({"pattern": Slots(("question", "answer"), ordered=True)}, _PAIR_FIELDS),
    "numbered": Kind(
        {
            "frame": Slots(("text", "questions", "answers"), ordered=True),
            "question": Slots(("number", "question"), ordered=True),
            "answer": Slots(("number", "answer"), ordered=True),
        },
        _PAIR_FIELDS,
    ),
    "examples": Kind({"pattern": Slots(("text", "pairs", "final"), ordered=True)}, {"asks": ASKS}),
    "next_turn": Kind(
        {
            "frame": Slots(("text", "pairs", "question", "answer"), ordered=True),
            "turn": Slots(("question", "answer"), ordered=True),
        },
        _PAIR_FIELDS,
    ),
}
SHARES = ("text_last_share", "shuffle_pairs_share", "no_answer.share")
LAYOUTS = {
    "several": ("plain", "dialogue", "numbered", "examples", "next_turn"),
    "otherwise": ("plain", "dialogue"),
}
"""Valid layouts for documents in which every text has two or more pairs, and for all other documents."""
_WEIGHTS = tuple(f"layout_weights.{group}" for group in LAYOUTS)
MARKS = "no_answer.marks"
KEYS = (*KINDS, *SHARES, *_WEIGHTS, MARKS)
_SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}


@dataclass(frozen=True)
class Entry:
    """One entry of a list: compiled patterns and other fields by name."""

    weight: float
    patterns: dict[str, Pattern]
    fields: dict[str, str]


@dataclass
class TemplateFile:
    """The checked content of a file, by dotted key; only keys that the file sets."""

    entries: dict[str, list[Entry]]
    shares: dict[str, float]
    layout_weights: dict[str, dict[str, float]]
    marks: list[str]


def read_template_file(path: Path) -> TemplateFile:
    """Reads and checks one template file.

    Raises:
        RecipeError: the file cannot be read or is not valid; lists all problems.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            loaded = yaml.load(stream, _Loader)
    except OSError as error:
        raise RecipeError(f"{path}: template file cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise RecipeError(f"{path}: expected a mapping of keys, found {_name(loaded)}")
    problems: list[str] = []
    content = _flatten(loaded, problems)
    result = TemplateFile({}, {}, {}, [])
    for key, value in content.items():
        if key in KINDS:
            result.entries[key] = list(_entries(key, value, problems))
        elif key in SHARES:
            result.shares[key] = _share(key, value, problems)
        elif key == MARKS:
            result.marks = _strings(key, value, problems)
        else:
            result.layout_weights[key.split(".")[1]] = _layout_weights(key, value, problems)
    if problems:
        raise RecipeError("\n".join(f"{path}: {problem}" for problem in problems))
    return result


def layout_weight_problems(group: str, weights: dict[str, float]) -> Iterator[str]:
    """Problems of the layout weights of ``group``."""
    for name, weight in weights.items():
        if name not in LAYOUTS[group]:
            yield f"unknown layout {name!r}; valid here: {', '.join(LAYOUTS[group])}"
        elif not _is_number(weight) or weight < 0:
            yield f"{name}: weight {weight!r} is not a non-negative number"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Rejects duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _flatten(loaded: dict[Any, Any], problems: list[str]) -> dict[str, Any]:
    """Values by dotted key."""
    content = {}
    for name, value in loaded.items():
        if name not in _SECTIONS:
            content[str(name)] = value
        elif isinstance(value, dict):
            content |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            problems.append(f"{name}: expected a mapping, found {_name(value)}")
    for key in [key for key in content if key not in KEYS]:
        problems.append(f"{key}: unknown key.{did_you_mean(key, KEYS)} Valid: {', '.join(KEYS)}")
        del content[key]
    return content


def _entries(key: str, value: Any, problems: list[str]) -> Iterator[Entry]:
    if not isinstance(value, list) or not value:
        problems.append(f"{key}: expected a list of entries, found {_name(value)}")
        return
    for number, item in enumerate(value, 1):
        found: list[str] = []
        entry = _entry(KINDS[key], item, found)
        problems += [f"{key}, entry {number}: {problem}" for problem in found]
        if entry is not None and not found:
            yield entry


def _entry(kind: Kind, item: Any, problems: list[str]) -> Entry | None:
    if isinstance(item, str):
        item = {kind.main: item}
    if not isinstance(item, dict):
        problems.append(f"expected a pattern or a mapping with one, found {_name(item)}")
        return None
    texts = [kind.literal] if kind.literal else list(kind.patterns)
    known = [*texts, *kind.choices, "weight"]
    for name in item:
        if name not in known:
            problems.append(f"unknown field {name!r}; valid: {', '.join(known)}")
    weight = item.get("weight", 1)
    if not _is_number(weight) or weight <= 0:
        problems.append(f"weight {weight!r} is not a positive number")
    patterns, fields = {}, {}
    for name in texts:
        text = item.get(name)
        if not isinstance(text, str):
            problems.append(f"field {name!r}: expected text, found {_name(text)}")
        elif kind.literal:
            fields[name] = text
        else:
            patterns[name] = _pattern(name, text, kind.patterns[name], problems)
    for name, choices in kind.choices.items():
        if name in item:
            value = item[name]
            if not isinstance(value, str) or (choices and value not in choices):
                problems.append(f"{name}: {value!r} is not {' or '.join(choices) or 'text'}")
            fields[name] = value
    if "item" in patterns and ("letter" in patterns["item"].slots) != ("letters" in fields):
        problems.append("the slot {letter} in 'item' requires the field 'letters', and vice versa")
    return Entry(weight, patterns, fields)


def _pattern(name: str, text: str, slots: Slots, problems: list[str]) -> Pattern:
    try:
        pattern = compile_pattern(text)
    except PatternError as error:
        problems.append(f"{name} {text!r}: {error}")
        return compile_pattern("")
    problems += [f"{name} {text!r}: {problem}" for problem in slots.problems(pattern)]
    return pattern


def _share(key: str, value: Any, problems: list[str]) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        problems.append(f"{key}: {value!r} is not a number from 0 to 1")
        return 0.0
    return float(value)


def _strings(key: str, value: Any, problems: list[str]) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        problems.append(f"{key}: expected a list of texts, found {_name(value)}")
        return []
    return value


def _layout_weights(key: str, value: Any, problems: list[str]) -> dict[str, float]:
    if not isinstance(value, dict):
        problems.append(f"{key}: expected a mapping of layouts to weights, found {_name(value)}")
        return {}
    problems += [f"{key}: {problem}" for problem in layout_weight_problems(key.split(".")[1], value)]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < float("inf")


def _name(value: Any) -> str:
    return "nothing" if value is None else "an empty list" if value == [] else type(value).__name__
