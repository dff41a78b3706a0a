"""A user's files in pieces that several processes read in parallel, and their records.

A plain JSON Lines file is cut by bytes: a line belongs to the piece in which it begins. Parquet files are cut by row
groups. A compressed or remote file is one piece, and so are the other formats of :mod:`megatron_ipt.corpus.readers`.
A record that cannot be used goes to the rejects with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.corpus.inputs import InputFile, base_suffix, find_files
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import read_file
from megatron_ipt.errors import InputError
from megatron_ipt.files import COMPRESSIONS, is_remote, iter_lines
from megatron_ipt.rejects import Rejects

LEAST_PIECE_BYTES = 32 << 20
MOST_PIECES = 4096
_TEXT_SUFFIXES = (".txt", ".text", ".md")
_LINES_SUFFIXES = ("", ".jsonl", ".ndjson", ".json")
_PARQUET_ROWS = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Piece:
    """Part of an input file.

    Attributes:
        path, name: of the file.
        format: ``lines``, ``parquet`` or ``reader``.
        start, end: bytes of a plain file, row groups of a Parquet file; end is -1 if the piece is the whole file.
    """

    path: str
    name: str
    format: str
    start: int = 0
    end: int = -1


def input_files(inputs: list[str]) -> list[InputFile]:
    """Files named by ``inputs``: files, folders or patterns, in the order given, sorted within each.

    Raises:
        InputError: an input is missing.
    """
    files: list[InputFile] = []
    for entry in inputs:
        if Path(entry).is_file() and not _is_known(entry):
            # As in Megatron-LM's tool, any other suffix means JSON Lines.
            files.append(InputFile(entry, Path(entry).name))
            continue
        found, _ = find_files([entry], _is_known, "input")
        files += found
    return files


def cut(files: list[InputFile], piece_bytes: int | None = None) -> list[Piece]:
    """The pieces of ``files``, in order; ``piece_bytes`` follows from the size of the corpus when it is None."""
    if piece_bytes is None:
        total = sum(Path(file.path).stat().st_size for file in files if not is_remote(file.path))
        piece_bytes = max(LEAST_PIECE_BYTES, total // MOST_PIECES)
    return [piece for file in files for piece in _cut_file(file, piece_bytes)]


class PieceReader:
    """Iterates over (number, record) of the usable records of a piece; every one of ``keys`` holds texts.

    Attributes:
        seen: lines or rows read so far, including unusable and blank ones; the number of a record is its index among
            them.
    """

    def __init__(self, piece: Piece, keys: list[str], rejects: Rejects):
        self.seen = 0
        self._piece = piece
        self._keys = keys
        self._rejects = rejects

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Raises InputError when the file cannot be read to its end."""
        readers = {"lines": self._read_lines, "parquet": self._read_parquet, "reader": self._read_other}
        for record in readers[self._piece.format]():
            problem = _why_unusable(record, self._keys)
            if problem is None:
                yield self.seen - 1, record
            else:
                reason, detail = problem
                self._rejects.add(reason, self._piece.path, self.seen, detail)

    def _read_lines(self) -> Iterator[Any]:
        loads = orjson.loads
        for line in _lines(self._piece):
            self.seen += 1
            try:
                value = loads(line)
            except orjson.JSONDecodeError:
                if not line.strip():
                    continue
                try:
                    value = _parse_leniently(line, self._keys)
                except (ValueError, RecursionError) as error:
                    reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "invalid JSON"
                    sample = line[:500].decode("utf-8", "replace")
                    self._rejects.add(reason, self._piece.path, self.seen, str(error), sample)
                    continue
            yield value

    def _read_parquet(self) -> Iterator[Any]:
        import pyarrow

        piece = self._piece
        with _open_parquet(piece.path) as table:
            names = table.schema_arrow.names
            missing = [key for key in self._keys if key not in names]
            if missing:
                raise InputError(f"{piece.path}: no column {missing[0]!r}; it has {', '.join(names)}")
            columns = [*self._keys, *(["id"] if "id" in names and "id" not in self._keys else [])]
            groups = list(range(piece.start, piece.end))
            try:
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=columns, use_threads=False):
                    for row in batch.to_pylist():
                        self.seen += 1
                        yield row
            except (OSError, pyarrow.ArrowException) as error:
                raise InputError(f"{piece.path}: damaged or truncated Parquet: {error}") from error

    def _read_other(self) -> Iterator[Any]:
        piece = self._piece
        options = ReadOptions(text_key=self._keys[0], section="input")
        for record in read_file(InputFile(piece.path, piece.name), options, self._rejects):
            self.seen += 1
            yield {"id": record.id, **dict.fromkeys(self._keys, record.text)}


def _is_known(path: str) -> bool:
    return base_suffix(path) in (*_LINES_SUFFIXES[1:], *_TEXT_SUFFIXES, ".parquet")


def _cut_file(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    suffix = base_suffix(file.path)
    if suffix == ".parquet":
        yield from _cut_parquet(file, piece_bytes)
    elif suffix in _TEXT_SUFFIXES or (suffix == ".json" and not _is_lines(file.path)):
        yield Piece(file.path, file.name, "reader")
    elif is_remote(file.path) or Path(file.path).suffix in COMPRESSIONS.values():
        yield Piece(file.path, file.name, "lines")
    else:
        size = Path(file.path).stat().st_size
        for start in range(0, size, piece_bytes):
            yield Piece(file.path, file.name, "lines", start, min(start + piece_bytes, size))


def _is_lines(path: str) -> bool:
    """Whether the first non-blank line is a complete JSON object, and not a SQuAD-format corpus."""
    first = next((line for line in iter_lines(path) if line.strip()), b"")
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        # A bad line among good ones belongs in the rejects; the start of a list does not.
        return not first.lstrip().startswith(b"[") and first.strip() != b"{"
    return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _cut_parquet(file: InputFile, piece_bytes: int) -> Iterator[Piece]:
    with _open_parquet(file.path) as table:
        sizes = [table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups)]
    start = size = 0
    for group, group_size in enumerate(sizes, 1):
        size += group_size
        if size >= piece_bytes or group == len(sizes):
            yield Piece(file.path, file.name, "parquet", start, group)
            start, size = group, 0


def _open_parquet(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        if is_remote(path):
            import fsspec

            return pyarrow.parquet.ParquetFile(fsspec.open(path, "rb").open(), pre_buffer=False)
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet: {error}") from error


def _lines(piece: Piece) -> Iterator[bytes]:
    if piece.end < 0:
        yield from iter_lines(piece.path)
        return
    try:
        with open(piece.path, "rb", buffering=1 << 20) as stream:
            position = piece.start
            if position:
                # A line that begins before this piece belongs to the previous one.
                stream.seek(position - 1)
                position += len(stream.readline()) - 1
            while position < piece.end:
                line = stream.readline()
                if not line:
                    raise InputError(f"{piece.path}: ends at byte {position}; it was truncated while being read")
                position += len(line)
                yield line
    except OSError as error:
        raise InputError(f"{piece.path}: cannot be read: {error.strerror or error}") from error


def _parse_leniently(line: bytes, keys: list[str]) -> Any:
    """Parses what Python accepts and orjson does not: NaN, a byte-order mark, unpaired escapes in other fields.

    Raises:
        ValueError: it is not JSON, or a text contains half of a surrogate pair.
    """
    value = json.loads(line.decode("utf-8-sig"))
    for key in keys:
        texts = value.get(key) if isinstance(value, dict) else None
        for text in texts if isinstance(texts, list) else [texts]:
            if isinstance(text, str) and _SURROGATE.search(text):
                raise ValueError(f"{key!r} contains half of a surrogate pair, which is not text")
    return value


def _why_unusable(record: Any, keys: list[str]) -> tuple[str, str] | None:
    """(reason, detail) when ``record`` lacks a text, else None."""
    if not isinstance(record, dict):
        return "not an object", f"found {type(record).__name__}"
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            continue
        if key not in record:
            return "missing text", f"no key {key!r}; the record has {', '.join(map(str, record))}"
        found = "null" if value is None else type(value).__name__
        return "missing text", f"expected a string under {key!r}, found {found}"
    return None
