"""Reads test sets: files of several formats, and the questions of benchmarks.

Nothing is skipped in silence: a test question that is not read is not kept out of the training data. A line that is not
JSON, a file that is not text and a file without any question are errors; records without a question are counted and
logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.inputs import base_suffix, matching_files
from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.decontamination.index import Question
from megatron_ipt.errors import InputError
from megatron_ipt.extensions import load_object
from megatron_ipt.files import iter_lines, open_bytes
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.replay.formats import TEXTS, format_of
from megatron_ipt.synthesis.from_text.replay.records import read_records

logger = logging.getLogger(__name__)

_DAMAGED = (KeyError, TypeError, AttributeError, IndexError)
_NESTED = ("squad", "tasks", "race", "dream")
"""Formats whose records hold several questions."""
_BATCH = 1024


def questions_of(config: DecontaminateConfig) -> Iterator[Question]:
    """All test questions that the section names, test set by test set.

    Raises:
        InputError: a file is missing, cannot be read, or holds no question.
        RecipeError: a task or what reads tasks does not exist.
        UserError: lm-evaluation-harness is not installed.
    """
    keys = config.question_keys
    for path in test_files(config.against, "decontaminate.against"):
        yield from read_questions(path, keys)
    for name, file in config.questions.items():
        for question in read_questions(file, keys):
            yield question._replace(test_set=name)
    if config.tasks:
        read = load_object(config.tasks_reader, "decontaminate.tasks_reader")
        counted = 0
        for question in read(config.tasks, config.include_path, config.training_sets):
            counted += 1
            yield Question(*question)
        if not counted:
            raise InputError(f"decontaminate.tasks: {', '.join(config.tasks)}: hold no question")


def test_files(inputs: Sequence[str], key: str) -> list[str]:
    """Files that ``inputs`` name, each once.

    Raises:
        InputError: one does not exist, or has an unknown format.
    """
    found: dict[str, None] = {}
    for entry in inputs:
        files = matching_files(entry, key)
        readable = [file.path for file in files if base_suffix(file.path) in _READERS]
        if not readable:
            raise InputError(
                f"{key}: {entry}: no file of a known format; known: {', '.join(_READERS)}, optionally followed by .gz "
                "or .zst"
            )
        if len(readable) < len(files):
            logger.warning("%s: %s: %d files of other formats skipped", key, entry, len(files) - len(readable))
        found |= dict.fromkeys(readable)
    return list(found)


def read_questions(path: str, keys: Sequence[str], setting: str = "decontaminate.question_keys") -> Iterator[Question]:
    """Questions of one file, a test set named as the file.

    Args:
        keys: fields that may hold a question; the first that a record has counts.
        setting: what sets the keys, for errors.

    Raises:
        InputError: the file cannot be read or holds no question.
    """
    read = _READERS.get(base_suffix(path))
    if read is None:
        raise InputError(f"{path}: unknown format; known: {', '.join(_READERS)}, optionally followed by .gz or .zst")
    questions = 0
    without: list[int] = []
    names: dict[str, None] = {}
    for number, found in read(path, keys, names):
        texts = [text for text in found if text.strip()]
        if not texts:
            without.append(number)
        for text in texts:
            questions += 1
            yield Question(path, number, text)
    if not questions:
        has = f"; the records have {', '.join(names)}; set {setting}" if names else ""
        expected = f" under {', '.join(keys)}" if names else ""
        raise InputError(f"{path}: holds no test question{expected}{has}")
    if without:
        logger.warning(
            "%s: %s of its records hold no question, the first at %d; they are not compared with",
            path, f"{len(without):,}", without[0],
        )  # fmt: skip


Found = Iterator[tuple[int, Sequence[str]]]


def _json_questions(path: str, keys: Sequence[str], names: dict[str, None]) -> Found:
    """(line or number, questions) of JSON Lines, of a list of records, or of one value, such as a SQuAD file."""
    for line, record in read_records(path, _Refusing(Path())):
        form = format_of(record)
        try:
            if form in _NESTED:
                for number, question in enumerate(_nested(record, form), 1):
                    yield line or number, [question]
                continue
            if form == "chains":
                yield line or 1, [pair["question"] for example in record["examples"] for pair in example["pairs"]]
                continue
        except _DAMAGED as error:
            raise InputError(f"{path}:{line or 1}: not in the format {form}: {error!r}") from error
        if isinstance(record, dict):
            names |= dict.fromkeys(record)
        yield line or 1, _under(record, keys)


def _nested(record: Any, form: str) -> Iterator[str]:
    for _, _, tasks in TEXTS[form](record):
        for task, _ in tasks:
            yield task["question"]


def _under(record: Any, keys: Sequence[str]) -> list[str]:
    """What a record holds under the first of ``keys`` that it has; the record itself if it is text."""
    if isinstance(record, str):
        return [record]
    if not isinstance(record, dict):
        return []
    value = next((record[name] for name in keys if isinstance(record.get(name), (str, list))), ())
    return [entry for entry in ([value] if isinstance(value, str) else value) if isinstance(entry, str)]


def _parquet_questions(path: str, keys: Sequence[str], names: dict[str, None]) -> Found:
    import pyarrow
    import pyarrow.parquet

    with open_bytes(path) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            names |= dict.fromkeys(table.schema_arrow.names)
            columns = [name for name in keys if name in names]
            number = 0
            for batch in table.iter_batches(_BATCH, columns=columns) if columns else ():
                for row in batch.to_pylist():
                    number += 1
                    yield number, _under(row, keys)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: not readable as Parquet: {error}") from error


def _lines(path: str, keys: Sequence[str], names: dict[str, None]) -> Found:
    for number, line in enumerate(iter_lines(path), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8: {error}; is it a text file?") from error
        if "\0" in text:
            raise InputError(f"{path}:{number}: holds a NUL character; is it a text file?")
        if text.strip():
            yield number, [text]


class _Refusing(Rejects):
    """A line that cannot be used is an error."""

    def add(
        self, reason: str, source: str, line: int | None = None, detail: str = "", sample: str = "", **fields: str | int
    ) -> None:
        raise InputError(f"{source}:{line}: {reason}: {detail}")


_READERS: dict[str, Callable[[str, Sequence[str], dict[str, None]], Found]] = {
    ".jsonl": _json_questions,
    ".ndjson": _json_questions,
    ".json": _json_questions,
    ".parquet": _parquet_questions,
    ".txt": _lines,
    ".text": _lines,
    ".md": _lines,
}
