"""Tokenizer files of a Hugging Face folder: which they are, how many tokens they know, which ids control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class TokenIds:
    """Control ids of the tokenizer: beginning of sequence, end of document, padding. Chat models may end at several."""

    bos: int | None
    eod: int | list[int] | None
    pad: int | None


def tokenizer_files(folder: Path) -> list[Path]:
    """Those files of ``folder`` that belong to its tokenizer."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Holds the tokenizer in ``folder``, where there is one, against the rows of the embedding.

    Raises:
        InputError: it knows a token that has no row.
    """
    highest, source = _highest_id(folder)
    if highest >= vocab_size:
        raise InputError(
            f"{source}: has a token with id {highest}, the embedding has {vocab_size} rows (ids up to "
            f"{vocab_size - 1}): tokenizer and weights are not of the same model"
        )


def control_ids(folder: Path) -> TokenIds:
    """Control ids as ``config.json`` and ``generation_config.json`` of ``folder`` say; None where neither does.

    Raises:
        InputError: a file is not JSON.
    """
    said: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            said |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return TokenIds(said.get("bos_token_id"), said.get("eos_token_id"), said.get("pad_token_id"))


def _highest_id(folder: Path) -> tuple[int, Path]:
    path = folder / "tokenizer.json"
    if path.is_file():
        content = read_json(path)
        model = content.get("model", {}) if isinstance(content, dict) else {}
        vocabulary = model.get("vocab", {})
        # Unigram models list pieces, others map them to ids.
        highest = max(vocabulary.values(), default=-1) if isinstance(vocabulary, dict) else len(vocabulary) - 1
        return max([highest, *(token["id"] for token in content.get("added_tokens", []))]), path
    path = folder / "tokenizer.model"
    if path.is_file():
        return _highest_piece(path), path
    return -1, folder


def _highest_piece(path: Path) -> int:
    from sentencepiece import SentencePieceProcessor

    try:
        highest = SentencePieceProcessor(model_file=str(path)).vocab_size() - 1
    except (OSError, RuntimeError):
        # Some families keep another format under this name.
        return -1
    added = path.with_name("added_tokens.json")
    return max([highest, *read_json(added).values()]) if added.is_file() else highest
