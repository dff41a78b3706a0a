"""Records of a file that is JSON Lines or a single JSON value, whatever its suffix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.errors import InputError
from megatron_ipt.files import iter_lines, read_whole as read_bytes
from megatron_ipt.rejects import Rejects


def read_records(path: str | Path, rejects: Rejects) -> Iterator[tuple[int | None, Any]]:
    """(line, record) of JSON Lines; of a single JSON value (number, item) if it is a list, else (None, value)."""
    value = _single_value(path)
    if isinstance(value, list):
        yield from enumerate(value, 1)
    elif value is not None:
        yield None, value
    else:
        yield from _lines(path, rejects)


def read_whole(path: str | Path) -> Any:
    """The one JSON value in ``path``.

    Raises:
        InputError: it holds none.
    """
    try:
        return orjson.loads(read_bytes(path))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: neither JSON nor JSON Lines: {error}") from error


def _single_value(path: str | Path) -> Any:
    """The value of a file that is one JSON list, or one JSON value over many lines; None where it is JSON Lines."""
    try:
        if isinstance(orjson.loads(next((line for line in iter_lines(path) if line.strip()), b"{}")), dict):
            return None
    except orjson.JSONDecodeError:
        pass
    try:
        return read_whole(path)
    except InputError:
        # A broken first line among good ones belongs in the rejects.
        return None


def _lines(path: str | Path, rejects: Rejects) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            rejects.add("not valid JSON", str(path), number, str(error), line.decode("utf-8", "replace"))
