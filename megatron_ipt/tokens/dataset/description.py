"""``dataset.json``: what is in a folder of indexed datasets, whichever stage wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_ipt.tokens.tokenizer.interface import Tokenizer

DATASET = "dataset.json"


def tokenizer_keys(folder: Path, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """The keys that say how ids are to be read.

    Args:
        folder: folder of the tokenizer, next to the datasets.
        dtype: type of an id on disk.
    """
    return {
        "tokenizer": folder.name,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eod_id": tokenizer.eod_id,
        "pad_id": tokenizer.pad_id,
        "dtype": dtype,
    }


def has_loss_masks(dataset: Mapping[str, Any]) -> bool:
    """Whether the training sets are rows in which only some tokens count for the loss, as tuning packs them.

    Rows beside full documents are pre-training: all their tokens count.
    """
    masked = [entry for entry in dataset["train"] if "loss_mask" in entry]
    return any(entry["loss_tokens"] < entry["tokens"] - entry["documents"] for entry in masked)
