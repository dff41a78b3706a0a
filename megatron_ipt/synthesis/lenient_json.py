"""Reads JSON objects from what a language model wrote, whatever stands around them and however they are broken.

One pass over the text with a stack, never recursion: an object is reported the moment its brace closes, so an answer
that ends in the middle still gives every object before that. Accepted besides JSON: text and code fences around it,
single and typographic quotes, names without quotes, missing and trailing commas, raw newlines, and unescaped quotes
inside strings (a quote closes a string only where what follows fits). Numbers, ``true`` and ``false`` are kept as they
are written. After a mistake, reading continues at the next brace. Nothing is raised, and the time is bounded: strings
have a maximum length, and reading stops after a fixed number of mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_CHARACTERS = 1_000_000
"""Of an answer that are read."""
_MOST_STRING = 20_000
_MOST_BROKEN = 200
_MOST_DEPTH = 32

_CLOSING = {'"': '"', "'": "'", "“": '[”"]', "‘": "[’']"}
_ENDS = {quote: re.compile(rf"\\.|{closing}", re.DOTALL) for quote, closing in _CLOSING.items()}
_AFTER_NAME = re.compile(r"\s*[:=]")
_AFTER_VALUE = re.compile(
    r"""\s*(?:$|[}\]]|,\s*(?:$|["'“‘{}\[\]]|-?\d|(?:true|false|null)\b|\w+["']?\s*:)|["'“]\w+["'”]\s*:)"""
)
_SPACE = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*[:=]\s*")
_WORD = re.compile(r"""[^\s,:=\[\]{}"'“‘]+""")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Broken:
    """An object that could not be read to its end.

    Attributes:
        text: its beginning.
        values: the fields before the mistake.
        ended: the text ends inside it.
        between: it ends between two fields, so that each of ``values`` is whole.
    """

    text: str
    values: dict[str, Any]
    ended: bool
    between: bool


@dataclass
class _Frame:
    start: int
    is_object: bool
    values: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    name: str | None = None

    def add(self, value: Any) -> None:
        if self.is_object:
            assert self.name is not None
            self.values[self.name] = value
            self.name = None
        else:
            self.items.append(value)


class _Mistake(Exception):
    """At ``position``; ``ended`` where a string is never closed."""

    def __init__(self, position: int, ended: bool = False):
        super().__init__()
        self.position = position
        self.ended = ended


def read_objects(text: str) -> Iterator[dict[str, Any] | Broken]:
    """Every object in ``text`` in the order in which they close, inner ones before the one they are in.

    Values are strings, None, lists and objects; names are lower case. Characters after the first ``MOST_CHARACTERS``
    are not read.
    """
    text = text[:MOST_CHARACTERS]
    position = text.find("{")
    broken = 0
    while position >= 0 and broken <= _MOST_BROKEN:
        stack: list[_Frame] = []
        try:
            while True:
                position = _step(text, position, stack)
                if stack and stack[-1].name == "":
                    yield _closed(stack)
                if not stack:
                    break
                if position >= len(text):
                    raise _Mistake(position, ended=True)
        except _Mistake as mistake:
            broken += 1
            position = mistake.position
            yield from _reported(text, stack, mistake)
        position = text.find("{", position)


def clean(text: str) -> str:
    """``text`` without control characters and halves of surrogate pairs, and without space around it."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text.replace("\r\n", "\n"))).strip()


def _step(text: str, position: int, stack: list[_Frame]) -> int:
    """Reads one name or value, or opens or closes a container; returns the position after it.

    An object that closes stays on the stack with the name ``""``, for the caller to take it.
    """
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
    if position >= len(text):
        return position
    character = text[position]
    frame = stack[-1] if stack else None
    if character in "}]":
        return _close(character, position, stack)
    if frame is not None and frame.is_object and frame.name is None:
        if character == "{" and frame.values:
            # The brace before this one is missing.
            frame.name = ""
            return position
        name, position = _scalar(text, position, _AFTER_NAME)
        colon = _COLON.match(text, position)
        if colon is None or not name:
            raise _Mistake(position)
        frame.name = name.lower()
        return colon.end()
    if character in "{[":
        if len(stack) >= _MOST_DEPTH:
            raise _Mistake(position + 1)
        stack.append(_Frame(position, character == "{"))
        return position + 1
    assert frame is not None
    value, position = _scalar(text, position, _AFTER_VALUE)
    frame.add(value)
    return position


def _close(character: str, position: int, stack: list[_Frame]) -> int:
    frame = stack[-1]
    if frame.is_object:
        if frame.name is not None:
            raise _Mistake(position)
        frame.name = ""
        # A bracket where a brace is missing closes the object, and is then read again.
        return position + 1 if character == "}" else position
    stack.pop()
    stack[-1].add(frame.items)
    return position + 1 if character == "]" else position


def _closed(stack: list[_Frame]) -> dict[str, Any]:
    frame = stack.pop()
    if stack:
        stack[-1].add(frame.values)
    return frame.values


def _scalar(text: str, position: int, after: re.Pattern[str]) -> tuple[str | None, int]:
    """A string or a bare word at ``position``, and the position after it; None for null."""
    quote = text[position]
    if quote in _ENDS:
        for end in _ENDS[quote].finditer(text, position + 1, position + 1 + _MOST_STRING):
            if end[0][0] != "\\" and after.match(text, end.end()):
                return _unescape(text[position + 1 : end.start()]), end.end()
        raise _Mistake(position + 1, ended=True)
    word = _WORD.match(text, position)
    if word is None:
        raise _Mistake(position + 1)
    return (None if word[0] in ("null", "None") else word[0]), word.end()


def _unescape(raw: str) -> str:
    if "\\" not in raw:
        return raw
    text = _ESCAPE.sub(
        lambda match: chr(int(match[1][1:], 16)) if len(match[1]) == 5 else _ESCAPED.get(match[1], match[1]), raw
    )
    # Two escapes may be the halves of one character.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _reported(text: str, stack: list[_Frame], mistake: _Mistake) -> Iterator[Broken]:
    """The innermost object, unless nothing of it was read: then the brace belonged to prose."""
    objects = [frame for frame in stack if frame.is_object]
    if not objects:
        return
    frame = objects[-1]
    innermost = frame is stack[-1]
    if frame.values or (frame.name is not None and (innermost or len(objects) > 1)) or (innermost and len(stack) > 1):
        between = innermost and frame.name is None and mistake.position >= len(text)
        yield Broken(text[frame.start : frame.start + 500], frame.values, mistake.ended, between)
