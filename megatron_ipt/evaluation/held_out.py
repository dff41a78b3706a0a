"""Held-out tokens: read back from the indexed datasets, and the least that a model must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.tokens.indexed import IndexedReader


def first_tokens(folder: Path, entry: dict[str, Any], limit: int) -> npt.NDArray[np.int64]:
    """The first ``limit`` ids of the dataset that ``entry`` of dataset.json describes, documents end to end."""
    return IndexedReader(folder / entry["prefix"]).tokens[:limit].astype(np.int64)


def first_documents(folder: Path, entry: dict[str, Any], count: int) -> list[npt.NDArray[np.int64]]:
    """Ids of the first ``count`` documents of a dataset."""
    reader = IndexedReader(folder / entry["prefix"])
    return [reader[index].astype(np.int64) for index in range(min(count, len(reader)))]


def training_frequencies(folder: Path, entries: list[dict[str, Any]], vocab_size: int, limit: int) -> Any:
    """Relative frequency of every id in the training data (its first ``limit`` tokens), add-one smoothed."""
    counts = np.ones(vocab_size)
    for entry in entries:
        counts += np.bincount(first_tokens(folder, entry, limit), minlength=vocab_size)
    return counts / counts.sum()


def unigram_entropy(ids: npt.NDArray[np.int64], frequencies: npt.NDArray[np.float64]) -> float:
    """Nats per token of ``ids`` for a model that knows only how frequent each token is in the training data."""
    return float(-np.log(frequencies[ids]).mean())
