"""Decontamination of files outside of a run: JSON Lines, Parquet and text, record by record.

Every text in a record is compared, whatever its field, so no key can be forgotten. A record of a text file is a
paragraph: lines up to a blank one. What is kept is written as it was read.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from megatron_ipt.corpus.inputs import base_suffix, matching_files
from megatron_ipt.decontamination.index import Index, Match, batches
from megatron_ipt.decontamination.questions import read_questions, test_files
from megatron_ipt.decontamination.shard import reject
from megatron_ipt.decontamination.tally import Tally, cautions
from megatron_ipt.errors import InputError, StorageError
from megatron_ipt.files import JsonlWriter, atomic_jsonl, atomic_path, iter_lines, open_bytes
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects

RECORD = "record holds a test question"
REJECTS = "rejects.jsonl"
_BATCH = 1024


class Record(NamedTuple):
    """A record, the line or row at which it begins, and its texts by the name of their field."""

    content: Any
    number: int
    texts: list[tuple[str, str]]


class Writer(Protocol):
    """Writes the content of records."""

    def write(self, content: Any) -> None: ...


def decontaminate_files(
    files: Sequence[str],
    against: Sequence[str],
    output: Path | None,
    question_keys: Sequence[str],
    ngram: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Looks for test questions in files.

    Args:
        files: files, folders or glob patterns of data.
        against: files, folders or glob patterns of test sets.
        output: folder for files without what holds a test question, and for ``rejects.jsonl``; None writes nothing.
        question_keys: fields of the test sets that may hold a question.
        ngram: words in a row.
        overwrite: replace files that are there.

    Returns:
        ``{files: {path: {records, removed}}, output, test_questions, short_test_questions, cautions}`` and what
        :meth:`Tally.summary` says of all files.

    Raises:
        InputError: a file is missing, damaged, or of an unknown format.
        StorageError: a file to be written is there already.
    """
    paths = _data_files(files)
    targets = _targets(paths, output, overwrite)
    tests = test_files(against, "--against")
    index = Index(
        (question for path in tests for question in read_questions(path, question_keys, "--question-key")), ngram
    )
    tally = Tally()
    by_file: dict[str, dict[str, int]] = {}
    with contextlib.ExitStack() as stack:
        rejects = stack.enter_context(Rejects(output / REJECTS)) if output is not None else None
        bar = stack.enter_context(Progress("decontaminate", len(paths), "files"))
        for path, target in zip(paths, targets):
            by_file[path] = _clean(path, target, index, tally, rejects)
            bar.advance(1, removed=f"{tally.dropped.total():,}")
    summary = tally.summary()
    return {
        "files": by_file,
        "output": None if output is None else str(output),
        **summary,
        "test_questions": len(index.questions),
        "questions_by_test_set": dict(Counter(question.test_set for question in index.questions)),
        "short_test_questions": index.short,
        "test_questions_without_words": index.without_words,
        "cautions": cautions(summary),
    }


def _data_files(files: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for entry in files:
        matches = [file.path for file in matching_files(entry, "FILE")]
        readable = [path for path in matches if base_suffix(path) in _FORMATS]
        if not readable:
            recipe = entry.endswith((".yaml", ".yml"))
            hint = "; the stage of a recipe is run by `megatron-ipt decontaminate-data`" if recipe else ""
            raise InputError(
                f"{entry}: no file of a known format; known: {', '.join(_FORMATS)}, optionally followed by .gz or "
                f".zst{hint}"
            )
        found |= dict.fromkeys(readable)
    return list(found)


def _targets(paths: list[str], output: Path | None, overwrite: bool) -> list[Path | None]:
    """Where each file goes; None where nothing is written."""
    if output is None:
        return [None] * len(paths)
    if (output / REJECTS).exists() and not overwrite:
        raise StorageError(f"{output / REJECTS}: is there already; use --overwrite to replace it")
    names: dict[str, str] = {}
    for path in paths:
        name = Path(path).name
        if name in names:
            raise InputError(f"{names[name]} and {path}: both would be written to {output / name}; clean them apart")
        if name == REJECTS:
            raise InputError(f"{path}: has the name of the file with what is removed, {output / name}; rename it")
        names[name] = path
        target = output / name
        if target.exists() and target.resolve() == Path(path).resolve():
            raise InputError(f"{path}: would be replaced by its clean copy; give another folder as --output")
        if target.exists() and not overwrite:
            raise StorageError(f"{target}: is there already; use --overwrite to replace it")
    return [output / name for name in names]


def _clean(path: str, target: Path | None, index: Index, tally: Tally, rejects: Rejects | None) -> dict[str, int]:
    """Compares one file and writes what is left of it; returns its counts."""
    form = _FORMATS[base_suffix(path)]
    counts = {"records": 0, "removed": 0}
    with form.writer(path, target) as writer:
        items = ((record, [text for _, text in record.texts]) for record in form.read(path))
        for batch in batches(items):
            found: Iterator[tuple[Match, ...]] = iter(index.find([text for _, texts in batch for text in texts]))
            for record, _ in batch:
                counts["records"] += 1
                held = [(name, text, match) for name, text in record.texts for match in next(found)]
                if not held:
                    tally.counts["records"] += 1
                    writer.write(record.content)
                    continue
                counts["removed"] += 1
                tally.dropped[RECORD] += 1
                place = f"{path}:{record.number}"
                tally.add_matches("records", place, held)
                if rejects is not None:
                    reject(rejects, RECORD, path, record.number, place, held, held[0][1])
    return counts


class _Nothing:
    def write(self, content: Any) -> None:
        pass


class _Lines:
    """Writes lists of lines."""

    def __init__(self, writer: JsonlWriter):
        self._writer = writer

    def write(self, content: list[bytes]) -> None:
        for line in content:
            self._writer.write_line(line)


@contextlib.contextmanager
def _line_writer(path: str, target: Path | None) -> Iterator[Writer]:
    if target is None:
        yield _Nothing()
        return
    with atomic_jsonl(target) as writer:
        yield _Lines(writer)


def _read_json_lines(path: str) -> Iterator[Record]:
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not valid JSON Lines: {error}") from error
        yield Record([line], number, list(_texts(value, "record")))


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """(field, text) of every text in a JSON value, at any depth."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, str(key))
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, name)


def _read_paragraphs(path: str) -> Iterator[Record]:
    """Paragraphs with the blank lines that follow them."""
    group: list[bytes] = []
    first = 1
    ended = False
    for number, line in enumerate(iter_lines(path), 1):
        if b"\0" in line:
            raise InputError(f"{path}:{number}: holds a NUL character; is it a text file?")
        blank = not line.strip()
        if ended and not blank:
            yield _paragraph(path, group, first)
            group, first, ended = [], number, False
        group.append(line)
        ended = ended or blank
    if group:
        yield _paragraph(path, group, first)


def _paragraph(path: str, lines: list[bytes], first: int) -> Record:
    try:
        return Record(lines, first, [("paragraph", b"\n".join(lines).decode())])
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{first}: not UTF-8: {error}; is it a text file?") from error


def _read_parquet(path: str) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    with open_bytes(path) as stream:
        try:
            for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(_BATCH):
                for place, row in enumerate(batch.to_pylist()):
                    number += 1
                    yield Record(batch.slice(place, 1), number, list(_texts(row, "row")))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: not readable as Parquet: {error}") from error


@contextlib.contextmanager
def _parquet_writer(path: str, target: Path | None) -> Iterator[Writer]:
    if target is None:
        yield _Nothing()
        return
    import pyarrow.parquet

    with open_bytes(path) as stream:
        try:
            schema = pyarrow.parquet.ParquetFile(stream).schema_arrow
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: not readable as Parquet: {error}") from error
    with atomic_path(target) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        rows = _Rows(writer)
        yield rows
        rows.flush()


class _Rows:
    """Writes rows of a table, many at a time."""

    def __init__(self, writer: Any):
        self._writer = writer
        self._rows: list[Any] = []

    def write(self, content: Any) -> None:
        self._rows.append(content)
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_batches(self._rows).combine_chunks())
            self._rows = []


class _Format(NamedTuple):
    read: Callable[[str], Iterator[Record]]
    writer: Callable[[str, Path | None], contextlib.AbstractContextManager[Writer]]


_JSON_LINES = _Format(_read_json_lines, _line_writer)
_TEXT = _Format(_read_paragraphs, _line_writer)
_FORMATS = {
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".parquet": _Format(_read_parquet, _parquet_writer),
    ".txt": _TEXT,
    ".text": _TEXT,
    ".md": _TEXT,
}


def render(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [
        f"{path}: {counts['removed']:,} of {counts['records']:,} records hold a test question"
        for path, counts in result["files"].items()
    ]
    for name, questions in result["questions_by_test_set"].items():
        found = result["test_sets"].get(name, {}).get("records", 0)
        lines.append(f"  {name}: {questions:,} questions, found in {found:,} records")
    if result["questions"]:
        lines.append("Found most often:")
        lines += [
            f"  {row['found']:>6,}  {row['test_set']}, question {row['number']}: {row['question']}"
            for row in result["questions"]
        ]
    if result["samples"]:
        lines.append("For example:")
        for sample in result["samples"]:
            around = f"{sample['before']} [[{sample['words']}]] {sample['after']}".strip()
            lines.append(f"  {sample['id']} ({sample['part']}): {around}")
    lines += [f"Note: {caution}" for caution in result["cautions"]]
    if result["output"] is not None:
        lines.append(f"Clean files are in {result['output']}.")
    return "\n".join(lines)
