"""``dataset.json``: what lies in a folder of indexed datasets, whichever stage wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_ipt.tokens.tokenizer.tokenizer import Tokenizer

DATASET = "dataset.json"


def tokenizer_keys(folder: Path, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """The keys that tell how ids are to be read.

    Args:
        folder: of the tokenizer, beside the datasets.
        dtype: of an id on disk.
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
    """Whether the training sets are rows of which only some tokens are learned, as the tuning stage packs them."""
    return any("loss_mask" in entry for entry in dataset["train"])
