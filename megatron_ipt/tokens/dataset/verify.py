"""Whether a dataset is intact: the index against itself and the tokens, the ids against the vocabulary, the files
against the checksums that were recorded with them.

Everything is read once, in pieces of a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.tokens.dataset.indexed import IndexedReader, bin_path, idx_path

_ENTRIES = 1 << 20
_BYTES = 1 << 22


def checksums(prefix: str | Path) -> dict[str, dict[str, Any]]:
    """``{bin, idx: {bytes, xxh128}}`` of the files of a dataset."""
    return {"bin": checksum(bin_path(prefix)), "idx": checksum(idx_path(prefix))}


def checksum(path: Path) -> dict[str, Any]:
    """``{bytes, xxh128}`` of all of a file.

    Raises:
        InputError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    size = 0
    try:
        with open(path, "rb", buffering=0) as stream:
            while piece := stream.read(_BYTES):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return {"bytes": size, "xxh128": digest.hexdigest()}


def description_of(prefix: str | Path) -> dict[str, Any] | None:
    """What was recorded about a dataset when it was made, with ``vocab_size``, ids and ``folder`` of its tokenizer.

    Looks for ``PREFIX.json`` and for an entry in ``dataset.json`` in the same folder; None if there is neither.
    """
    prefix = Path(prefix)
    own = Path(f"{prefix}.json")
    if own.is_file():
        return _with_folder(read_json(own), prefix.parent)
    shared = prefix.parent / DATASET
    if shared.is_file():
        dataset = read_json(shared)
        splits = {name: value for name, value in dataset.items() if isinstance(value, list)}
        for split, entries in splits.items():
            for entry in entries:
                if entry.get("prefix") == prefix.name:
                    common = {name: value for name, value in dataset.items() if name not in splits}
                    return _with_folder({**common, "split": split, **entry}, prefix.parent)
    return None


def _with_folder(description: dict[str, Any], folder: Path) -> dict[str, Any]:
    tokenizer = description.get("tokenizer")
    return {**description, "folder": str(folder / tokenizer) if tokenizer else None}


def verify(prefix: str | Path, vocab_size: int | None = None) -> dict[str, Any]:
    """Checks everything that can be checked about a dataset.

    Args:
        vocab_size: every id must be less than it; by default that of the dataset's description.

    Returns:
        ``{prefix, documents, sequences, tokens, checked: [names], problems: [sentences]}``; the dataset is intact if
        there are no problems.
    """
    checked, problems = ["sizes"], []
    try:
        description = description_of(prefix)
    except InputError as error:
        description = None
        problems.append(str(error))
    try:
        reader = IndexedReader(prefix)
    except InputError as error:
        return {"prefix": str(prefix), "checked": checked, "problems": [*problems, str(error)]}
    checked += ["lengths", "offsets", "documents"]
    problems += index_problems(reader)
    vocab_size = vocab_size or (description or {}).get("vocab_size")
    if vocab_size is not None:
        checked.append("ids")
        problems += _id_problems(reader, vocab_size)
    if description is not None:
        problems += _count_problems(reader, description)
        if "files" in description:
            checked.append("checksums")
            problems += _checksum_problems(prefix, description["files"])
    return {
        "prefix": str(prefix),
        "documents": len(reader),
        "sequences": len(reader.sequence_lengths),
        "tokens": reader.total_tokens,
        "checked": checked,
        "problems": problems,
    }


def index_problems(reader: IndexedReader) -> Iterator[str]:
    """What is wrong in the index of ``reader``: each offset must be the end of the previous sequence."""
    path = idx_path(reader.prefix)
    lengths, offsets, size = reader.sequence_lengths, reader.sequence_offsets, reader.dtype.itemsize
    end = 0
    for start in range(0, len(lengths), _ENTRIES):
        piece = np.array(lengths[start : start + _ENTRIES], np.int64)
        if piece.min() < 0:
            yield f"{path}: sequence {start + int(piece.argmin())} has length {piece.min()}"
            return
        ends = end + np.cumsum(piece) * size
        wrong = np.flatnonzero(offsets[start : start + _ENTRIES] != ends - piece * size)
        if len(wrong):
            number, expected = start + int(wrong[0]), int((ends - piece * size)[wrong[0]])
            yield f"{path}: sequence {number} begins at byte {offsets[number]}, {expected} expected"
            return
        end = int(ends[-1])
    documents = reader.document_index
    if documents[0] != 0 or documents[-1] != len(lengths):
        yield (f"{path}: the documents span sequences {documents[0]} to {documents[-1]}, 0 to {len(lengths)} expected")
    for start in range(0, len(documents), _ENTRIES):
        if (np.diff(documents[start : start + _ENTRIES + 1]) < 0).any():
            yield f"{path}: documents near number {start} are out of order"
            return


def _id_problems(reader: IndexedReader, vocab_size: int) -> Iterator[str]:
    with open(bin_path(reader.prefix), "rb", buffering=0) as stream:
        first = 0
        while piece := stream.read(_BYTES):
            ids = np.frombuffer(piece, reader.dtype)
            if int(ids.max()) >= vocab_size or int(ids.min()) < 0:
                place = int(np.flatnonzero((ids >= vocab_size) | (ids < 0))[0])
                found = f"token {first + place} is {ids[place]}; the vocabulary has {vocab_size} ids"
                yield f"{bin_path(reader.prefix)}: {found}"
                return
            first += len(ids)


def _count_problems(reader: IndexedReader, description: dict[str, Any]) -> Iterator[str]:
    found = {"documents": len(reader), "tokens": reader.total_tokens, "dtype": reader.dtype.name}
    for name, value in found.items():
        if name in description and description[name] != value:
            yield f"{reader.prefix}: {value} {name}, its description says {description[name]}"


def _checksum_problems(prefix: str | Path, files: dict[str, Any]) -> Iterator[str]:
    for name, path in (("bin", bin_path(prefix)), ("idx", idx_path(prefix))):
        if name in files and checksum(path) != files[name]:
            yield f"{path}: was changed after it was written: its checksum differs"
