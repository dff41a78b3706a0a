"""Readers: one per format, from a file to (id, text, title, domain), streaming.

A record that cannot be used goes to the rejects with its place; a file that cannot be read to its end is an error,
because a truncated download must not pass for a smaller corpus. A custom reader is a function of the same signature,
named in ``corpus.reader`` or added to ``READERS`` under its suffix by an extension.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import orjson

from megatron_ipt.corpus.inputs import InputFile, base_suffix
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.extensions import load_object
from megatron_ipt.files import iter_lines, open_bytes, read_whole
from megatron_ipt.rejects import Rejects

_WHOLE_FILE_BYTES = 1 << 16
_HEADING = re.compile(rb"\s*(?:=\s+(?P<wiki>[^=\s](?:.*[^=\s])?)\s+=|#\s+(?P<markdown>\S.*?))\s*")
_PARQUET_BATCH = 1024


class Record(NamedTuple):
    """What a reader yields; ``title`` and ``domain`` are empty where the file has none."""

    id: str
    text: str
    title: str = ""
    domain: str = ""


Reader = Callable[[InputFile, ReadOptions, Rejects], Iterator[Record]]


def read_file(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    """Records of ``file``, blank ones included; what cannot be used goes to ``rejects``.

    Raises:
        InputError: the file cannot be opened or is damaged.
        RecipeError: the custom reader cannot be used.
    """
    custom = custom_reader(options)
    if custom is None:
        return READERS[base_suffix(file.path)](file, options, rejects)
    return _records(custom(file, options, rejects), options)


def _records(made: Any, options: ReadOptions) -> Iterator[Record]:
    if not hasattr(made, "__iter__"):
        raise RecipeError(f"{options.section}.reader: {options.reader} returned {made!r:.80}; expected records")
    for record in made:
        if not isinstance(record, Record) or not all(isinstance(value, str) for value in record):
            raise RecipeError(
                f"{options.section}.reader: {options.reader} yielded {record!r:.80}; expected "
                "Record(id, text, title, domain), all of them strings"
            )
        yield record


def custom_reader(options: ReadOptions) -> Reader | None:
    """What ``options.reader`` names; None where files are read by their suffix.

    Raises:
        RecipeError: it cannot be imported, or cannot be called as a reader.
    """
    if not options.reader:
        return None
    reader = load_object(options.reader, f"{options.section}.reader")
    try:
        inspect.signature(reader).bind(None, options, None)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{options.section}.reader: {options.reader} is not a function of (file, options, rejects): {error}"
        ) from error
    return cast(Reader, reader)


def is_readable(path: str) -> bool:
    """Whether there is a reader for this suffix."""
    return base_suffix(path) in READERS


def readable_suffixes() -> str:
    """All suffixes that have a reader, for use in a sentence."""
    *most, last = READERS
    return f"{', '.join(most)} and {last}"


def read_jsonl(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    for number, line in enumerate(iter_lines(file.path), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            rejects.add("invalid JSON", file.path, number, str(error), line.decode("utf-8", "replace"))
            continue
        record = _record(value, f"{file.name}:{number}", file.path, number, options, rejects)
        if record is not None:
            yield record


def read_json(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    """One JSON value: a list of records, or the SQuAD format, whose contexts are the documents.

    Many corpora use ``.json`` for JSON Lines; a file whose first line is a complete object is read as such.
    """
    first = next(iter_lines(file.path), b"")
    if _is_object(first):
        whole_is_one_line = read_whole(file.path).count(b"\n") <= 1
        if not (whole_is_one_line and b'"data"' in first):
            yield from read_jsonl(file, options, rejects)
            return
    content = read_whole(file.path)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{file.path}: not valid JSON: {error}") from error
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            record = _record(item, f"{file.name}:{number}", file.path, number, options, rejects)
            if record is not None:
                yield record
    elif isinstance(value, dict) and isinstance(value.get("data"), list):
        yield from _squad_contexts(value["data"], file, rejects)
    else:
        raise InputError(
            f"{file.path}: expected a list of records, the SQuAD format ({{'data': [...]}}) or JSON Lines, found "
            f"{type(value).__name__}"
        )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _squad_contexts(articles: list[Any], file: InputFile, rejects: Rejects) -> Iterator[Record]:
    number = 0
    for article in articles:
        paragraphs = article.get("paragraphs", ()) if isinstance(article, dict) else None
        if not isinstance(paragraphs, (list, tuple)):
            rejects.add("not an article", file.path, None, "expected an object with a list of paragraphs", str(article))
            continue
        title = str(article.get("title", "")).replace("_", " ")
        for paragraph in paragraphs:
            number += 1
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if isinstance(context, str) and context.strip():
                yield Record(f"{file.name}:{number}", context, title)
            else:
                rejects.add("missing text", file.path, number, "paragraph without a context")


def read_parquet(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    with open_bytes(file.path) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            names = table.schema_arrow.names
            if options.text_key not in names:
                raise InputError(
                    f"{file.path}: no column {options.text_key!r} ({options.section}.text_key); it has {names}"
                )
            wanted = (options.id_key, options.text_key, options.title_key, options.domain_key)
            columns = [name for name in dict.fromkeys(wanted) if name in names]
            number = 0
            for batch in table.iter_batches(_PARQUET_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    record = _record(row, f"{file.name}:{number}", file.path, number, options, rejects)
                    if record is not None:
                        yield record
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{file.path}: not readable as Parquet: {error}") from error


def read_text(file: InputFile, options: ReadOptions, rejects: Rejects) -> Iterator[Record]:
    """Plain text, divided as ``options.text_documents`` says. Only the parts that are not UTF-8 are rejected."""
    division = options.text_documents
    if division == "auto":
        division = _detect_division(file.path)
    divided = _divide(iter_lines(file.path), division, options.passage_characters)
    for first_line, lines, title in divided:
        try:
            text = b"\n".join(lines).decode("utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            sample = b"\n".join(lines)[:200].decode("utf-8", "replace")
            rejects.add("not UTF-8", file.path, first_line, str(error), sample)
            continue
        if text.strip():
            yield Record(f"{file.name}:{first_line}", text, title.decode("utf-8", "replace"))


def _detect_division(path: str) -> str:
    size = 0
    for line in iter_lines(path):
        if _HEADING.fullmatch(line):
            return "heading"
        size += len(line) + 1
        if size > _WHOLE_FILE_BYTES:
            return "passage"
    return "file"


def _divide(lines: Iterator[bytes], division: str, passage_bytes: int) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Groups lines into documents: (number of the first line, lines, title)."""
    start, size, title = 1, 0, b""
    group: list[bytes] = []
    for number, line in enumerate(lines, 1):
        heading = _HEADING.fullmatch(line) if division == "heading" else None
        paragraph_end = division == "passage" and size >= passage_bytes and not line.strip()
        if group and (heading or paragraph_end):
            yield start, group, title
            start, group, size = number, [], 0
        if heading:
            title = heading["wiki"] or heading["markdown"]
        group.append(line)
        size += len(line) + 1
    if group:
        yield start, group, title


def _record(value: Any, place: str, source: str, number: int, options: ReadOptions, rejects: Rejects) -> Record | None:
    """A record from one JSON object or table row, or None after rejecting it."""
    if not isinstance(value, dict):
        rejects.add("not an object", source, number, f"found {type(value).__name__}")
        return None
    text = value.get(options.text_key)
    if not isinstance(text, str):
        found = f"{options.text_key!r} is {type(text).__name__}" if options.text_key in value else f"has {list(value)}"
        rejects.add("missing text", source, number, f"expected a string under {options.text_key!r}; {found}")
        return None
    title = value.get(options.title_key)
    return Record(
        _name(value.get(options.id_key)) or place,
        text,
        title.strip() if isinstance(title, str) else "",
        _name(value.get(options.domain_key)).strip() if options.domain_key else "",
    )


def _name(value: Any) -> str:
    """An id or a domain as text; empty where it is neither text nor a whole number."""
    return str(value) if isinstance(value, (str, int)) else ""


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".txt": read_text,
    ".text": read_text,
    ".md": read_text,
}
