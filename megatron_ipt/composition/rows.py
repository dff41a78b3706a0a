"""The contexts that are kept, as rows with a loss mask, and the dataset that blends them with full documents.

Rows are written as tuning writes them, one sequence in each, and every token but the first is predicted: a dataset of
documents would cut contexts up. The full documents are those of the token data, which stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.contexts import in_order
from megatron_ipt.composition.gain import blend_weights
from megatron_ipt.composition.neighbours import context_dtype, read_contexts
from megatron_ipt.composition.search import NONE
from megatron_ipt.composition.store import Numbers, Paragraphs
from megatron_ipt.corpus.documents import SPLITS
from megatron_ipt.files import read_json, write_json
from megatron_ipt.progress import Progress
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.tokens.dataset.verify import checksums
from megatron_ipt.tuning.rows import MASK_SUFFIX, RowWriter

PREFIX = "contexts-train"
NAME = "contexts"
"""Of the rows among the training sources."""


def write_rows(
    config: CompositionConfig,
    directory: Path,
    paragraphs: Paragraphs,
    seed: int,
    kept: Mapping[str, npt.NDArray[np.bool_]],
    break_ids: list[int],
    dtype: str,
) -> dict[str, Any]:
    """Writes the rows of the kept contexts.

    Args:
        kept: which of its contexts, by shard.
        break_ids: line break after each paragraph.
        dtype: of ids on disk.

    Returns:
        The entry of ``dataset.json``.
    """
    room = config.paragraph_tokens - len(break_ids)
    with RowWriter(directory / PREFIX, dtype) as writer, Progress("rows", len(kept), "shards") as bar:
        for name, chosen in kept.items():
            for context in read_contexts(directory, name)[chosen]:
                ids = row_ids(config, paragraphs, context, seed, room, break_ids)
                mask = np.ones(len(ids), np.uint8)
                mask[0] = 0
                writer.add(ids, mask, np.array([len(ids)], np.int32))
            bar.advance(1)
    entry: dict[str, Any] = {
        "name": NAME,
        "prefix": PREFIX,
        "loss_mask": f"{PREFIX}{MASK_SUFFIX}",
        "seq_length": config.seq_length,
        "documents": writer.rows,
        "tokens": writer.tokens,
        "loss_tokens": writer.loss_tokens,
    }
    entry["files"] = checksums(directory / entry["prefix"])
    entry["loss_mask_files"] = checksums(directory / entry["loss_mask"])
    return entry


def row_ids(
    config: CompositionConfig, paragraphs: Paragraphs, context: Any, seed: int, room: int, break_ids: list[int]
) -> npt.NDArray[np.int64]:
    """Token ids of a context."""
    query = int(context["query"])
    nearest = context["neighbours"][context["neighbours"] != NONE].tolist()
    parts: list[Any] = []
    for number in in_order(query, nearest, config.order, seed, paragraphs.name(query)):
        parts += [paragraphs.ids(number)[:room].astype(np.int64), np.array(break_ids, np.int64)]
    return np.concatenate(parts)


def lengths_of(config: CompositionConfig, paragraphs: Paragraphs, break_ids: list[int]) -> Numbers:
    """Tokens of each paragraph in a context: cut, with a line break."""
    return np.minimum(paragraphs.tokens, config.paragraph_tokens - len(break_ids)) + len(break_ids)


def write_dataset(config: CompositionConfig, directory: Path, tokens: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Writes ``dataset.json``: the rows, and the documents of ``tokens`` with weights for ``config.share``.

    Returns:
        Its content.
    """
    base = read_json(tokens / DATASET)
    fill = entry["loss_tokens"] / (entry["documents"] * config.seq_length)
    contexts, documents = blend_weights(fill, config.share)
    up = os.path.relpath(tokens, directory)
    dataset = base | {"tokenizer": f"{up}/{base['tokenizer']}"}
    for split in SPLITS:
        dataset[split] = [_elsewhere(other, up) for other in base.get(split, ())]
    total = sum(other.get("weight", 1.0) for other in dataset["train"])
    for other in dataset["train"]:
        other["weight"] = other.get("weight", 1.0) / total * documents
    if config.share == 1:
        dataset["train"] = []
    dataset["train"] = [*dataset["train"], entry | {"weight": contexts}]
    write_json(directory / DATASET, dataset)
    return dataset


def _elsewhere(entry: dict[str, Any], up: str) -> dict[str, Any]:
    """An entry as it is named from the folder of this stage."""
    named = {name: f"{up}/{entry[name]}" for name in ("prefix", "loss_mask") if name in entry}
    return entry | named


def uses_of(contexts: npt.NDArray[np.void], count: int) -> Numbers:
    """Contexts in which each of ``count`` paragraphs is a neighbour."""
    numbers = contexts["neighbours"].ravel()
    return np.bincount(numbers[numbers != NONE], minlength=count).astype(np.int64)


def no_contexts(config: CompositionConfig) -> npt.NDArray[np.void]:
    """An empty array of contexts."""
    return np.zeros(0, context_dtype(config.neighbours))
