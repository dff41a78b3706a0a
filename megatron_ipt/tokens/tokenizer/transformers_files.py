"""The files in which transformers expects a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""What is copied from a Hugging Face folder. A ``tokenizer.model`` in it is not: the two may differ."""


def write_tokenizer_config(folder: Path, bos: str | None, eos: str, unk: str | None) -> None:
    """Writes ``tokenizer_config.json`` for a plain fast tokenizer.

    The class is the generic one on purpose: transformers rebuilds model-specific ones from their vocabulary and then
    tokenizes differently from the ``tokenizer.json`` in the same folder.
    """
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "add_bos_token": bos is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")
