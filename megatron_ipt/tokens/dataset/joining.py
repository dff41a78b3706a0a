"""Merges datasets into one, or splits one into several; the tokens are copied by the kernel.

What is known about the documents is kept: the description (``PREFIX.json``) and the source of each document
(``PREFIX.sources.npy``).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import atomic_open, write_json
from megatron_ipt.tokens.dataset.indexed import IndexedReader, IndexedWriter, bin_path, idx_path
from megatron_ipt.tokens.dataset.mix import append
from megatron_ipt.tokens.dataset.verify import checksums, description_of

_COMMON = ("vocab_size", "bos_id", "eod_id", "pad_id")


def merge(prefixes: list[str], output: str, overwrite: bool = False) -> dict[str, Any]:
    """Writes the documents of all ``prefixes``, in order, to ``output``.

    Returns:
        The description of the new dataset.

    Raises:
        RecipeError: there is nothing to merge, or the output is among the inputs.
        InputError: an input is damaged, or inputs differ in data type or vocabulary.
        StageError: the output exists.
    """
    if not prefixes:
        raise RecipeError("merge: give at least one dataset")
    if Path(output).resolve() in (Path(prefix).resolve() for prefix in prefixes):
        raise RecipeError(f"merge: {output} is both an input and the output; choose another name")
    _refuse_existing(output, overwrite)
    descriptions = [description_of(prefix) or {} for prefix in prefixes]
    readers = [IndexedReader(prefix) for prefix in prefixes]
    for reader, description in zip(readers[1:], descriptions[1:]):
        if reader.dtype != readers[0].dtype:
            raise InputError(f"{reader.prefix}: ids are {reader.dtype}, those of {prefixes[0]} are {readers[0].dtype}")
        for name in _COMMON:
            one, other = descriptions[0].get(name), description.get(name)
            if one is not None and other is not None and one != other:
                raise InputError(
                    f"{reader.prefix}: {name} is {other}, that of {prefixes[0]} is {one}: different tokenizers?"
                )
    _prepare(output)
    with IndexedWriter(output, readers[0].dtype) as writer:
        for reader in readers:
            append(writer, reader)
    names = list(dict.fromkeys(name for description in descriptions for name in description.get("by_source", ())))
    sources = [_sources(prefix, description, names) for prefix, description in zip(prefixes, descriptions)]
    merged = None if any(part is None for part in sources) else [part for part in sources if part is not None]
    return _describe(output, descriptions[0], writer, names, merged)


def split(prefix: str, output: str, parts: int, overwrite: bool = False) -> dict[str, dict[str, Any]]:
    """Divides a dataset into ``parts`` ranges of consecutive documents with about the same number of tokens.

    Returns:
        The descriptions of the new datasets ``OUTPUT_0``, ``OUTPUT_1``, ..., by prefix.

    Raises:
        RecipeError: parts is below 1 or above the number of documents.
        InputError: the dataset is damaged.
        StageError: an output exists.
    """
    reader = IndexedReader(prefix)
    if not 1 <= parts <= max(len(reader), 1):
        raise RecipeError(f"split: {parts} parts of {len(reader)} documents; expected 1 to {max(len(reader), 1)}")
    outputs = [f"{output}_{number:0{len(str(parts - 1))}d}" for number in range(parts)]
    for target in outputs:
        _refuse_existing(target, overwrite)
    description = description_of(prefix) or {}
    names = list(description.get("by_source", ()))
    sources = _sources(prefix, description, names)
    results = {}
    for target, (start, end) in zip(outputs, _ranges(reader, parts)):
        _prepare(target)
        with IndexedWriter(target, reader.dtype) as writer:
            append(writer, reader, start, end)
        results[target] = _describe(
            target, description, writer, names, None if sources is None else [sources[start:end]]
        )
    return results


def _ranges(reader: IndexedReader, parts: int) -> list[tuple[int, int]]:
    """Ranges of documents, none empty, with about the same number of tokens."""
    documents = len(reader)
    ideal = np.arange(1, parts) * (reader.total_tokens / parts)
    cuts = np.searchsorted(reader.offsets[1:], ideal, "left") + 1
    # At least one document each, on either side of every cut.
    cuts = np.maximum.accumulate(np.maximum(cuts - np.arange(1, parts), 0)) + np.arange(1, parts)
    cuts = np.minimum(cuts, documents - np.arange(parts - 1, 0, -1))
    bounds = [0, *cuts.tolist(), documents]
    return list(pairwise(bounds))


def _refuse_existing(output: str, overwrite: bool) -> None:
    for path in (bin_path(output), idx_path(output)):
        if path.exists() and not overwrite:
            raise StageError(f"{path}: exists already; choose another name, or use --overwrite to replace it")


def _prepare(output: str) -> None:
    # Never leave an old index or description next to new tokens.
    for path in (idx_path(output), Path(f"{output}.json"), Path(f"{output}.sources.npy")):
        path.unlink(missing_ok=True)


def _sources(prefix: str, description: dict[str, Any], names: list[str]) -> npt.NDArray[np.uint8] | None:
    """The source of every document as a number in ``names``, or None if it is not known."""
    path = Path(f"{prefix}.sources.npy")
    if not path.is_file() or not names:
        return None
    numbers = np.array([names.index(name) for name in description.get("by_source", ())], np.uint8)
    return numbers[np.load(path)]


def _describe(
    output: str,
    like: dict[str, Any],
    writer: IndexedWriter,
    names: list[str],
    sources: list[npt.NDArray[np.uint8]] | None,
) -> dict[str, Any]:
    description: dict[str, Any] = {name: like[name] for name in _COMMON if name in like}
    if like.get("folder"):
        description["tokenizer"] = str(Path(like["folder"]).resolve())
    description |= {"dtype": writer.dtype.name, "documents": writer.documents, "tokens": writer.tokens}
    if sources is not None and names:
        source = np.concatenate(sources)
        with atomic_open(f"{output}.sources.npy") as stream:
            np.save(stream, source)
        lengths = IndexedReader(output).lengths
        tokens = np.bincount(source, lengths, len(names)).astype(np.int64).tolist()
        documents = np.bincount(source, minlength=len(names)).tolist()
        description["by_source"] = {
            name: {"documents": documents[number], "tokens": tokens[number]} for number, name in enumerate(names)
        }
    description["files"] = checksums(output)
    write_json(Path(f"{output}.json"), description)
    return description
