"""Held-out tokens, and the baseline that every model should beat: the entropy of single tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document
from megatron_ipt.tokens.dataset.indexed import IndexedReader


def first_tokens(folder: Path, entry: dict[str, Any], limit: int) -> npt.NDArray[np.int64]:
    """The first ``limit`` ids of the dataset that ``entry`` of dataset.json describes, documents end to end."""
    return IndexedReader(folder / entry["prefix"]).tokens[:limit].astype(np.int64)


def first_documents(folder: Path, entry: dict[str, Any], count: int) -> list[npt.NDArray[np.int64]]:
    """Ids of the first ``count`` documents of a dataset."""
    reader = IndexedReader(folder / entry["prefix"])
    return [reader[index].astype(np.int64) for index in range(min(count, len(reader)))]


def tokens_of(documents: Iterable[Document], tokenizer: Any, limit: int) -> npt.NDArray[np.int64]:
    """Ids of ``documents``, each framed as in training, up to ``limit``; empty where there is no document."""
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids: list[int] = []
    for document in documents:
        ids += [*head, *tokenizer(document.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= limit:
            break
    return np.array(ids[:limit], np.int64)


def training_frequencies(folder: Path, entries: list[dict[str, Any]], vocab_size: int, limit: int) -> Any:
    """Relative frequency of every id in the training data (its first ``limit`` tokens), add-one smoothed."""
    counts = np.ones(vocab_size)
    for entry in entries:
        counts += np.bincount(first_tokens(folder, entry, limit), minlength=vocab_size)
    return counts / counts.sum()


def unigram_entropy(ids: npt.NDArray[np.int64], frequencies: npt.NDArray[np.float64]) -> float:
    """Nats per token of ``ids`` under a model that only knows how frequent each token is in the training data."""
    return float(-np.log(frequencies[ids]).mean())
