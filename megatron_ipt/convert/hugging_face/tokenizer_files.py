"""Tokenizer files of a Hugging Face folder: which they are, how many tokens they have, and their control ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.models.hugging_face_config import CONFIG_FILE, TokenIds
from megatron_ipt.tokens.tokenizer.transformers_files import TOKENIZER_FILES

_FILES = (*TOKENIZER_FILES, "tokenizer.model", "vocab.txt")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that belong to its tokenizer."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Compares the tokenizer in ``folder``, if there is one, with the rows of the embedding.

    Raises:
        InputError: it has a token without a row.
    """
    highest, source = _highest_id(folder)
    if highest >= vocab_size:
        raise InputError(
            f"{source}: has a token with id {highest}, the embedding has {vocab_size} rows (ids up to "
            f"{vocab_size - 1}): tokenizer and weights do not belong to the same model"
        )


def control_ids(folder: Path) -> TokenIds:
    """Control ids in ``config.json`` and ``generation_config.json`` of ``folder``; None if in neither.

    Raises:
        InputError: a file is not JSON.
    """
    said: dict[str, Any] = {}
    for name in (CONFIG_FILE, "generation_config.json"):
        if (folder / name).is_file():
            said |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return TokenIds(said.get("bos_token_id"), said.get("eos_token_id"), said.get("pad_token_id"))


def _highest_id(folder: Path) -> tuple[int, Path]:
    path = folder / "tokenizer.json"
    if path.is_file():
        content = read_json(path)
        model = content.get("model", {}) if isinstance(content, dict) else {}
        vocabulary = model.get("vocab", {})
        # Unigram models have a list of pieces, others a mapping to ids.
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
        # Some families use this name for another format.
        return -1
    added = path.with_name("added_tokens.json")
    return max([highest, *read_json(added).values()]) if added.is_file() else highest
