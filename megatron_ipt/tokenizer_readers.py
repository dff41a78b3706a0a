"""Loads tokenizer files, for all packages.

``tokenizer.json`` and SentencePiece models are loaded by their own libraries, never rebuilt from the vocabulary. A
literal ``</s>`` in a document is encoded as text, not as the control token, and nothing is truncated or padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json


def read_tokenizer_json(file: Path) -> Any:
    """The ``tokenizers.Tokenizer`` in ``file``.

    Raises:
        InputError: the library cannot load the file.
    """
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file}: the tokenizers library cannot load this file: {error}") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_sentencepiece(model: bytes, name: str | Path) -> Any:
    """The ``SentencePieceProcessor`` of a model.

    Args:
        model: content of a ``.model`` file.
        name: file name, for the error message.

    Raises:
        InputError: ``model`` is not a SentencePiece model.
    """
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise InputError(f"{name}: not a SentencePiece model: {error}") from error


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by name (``bos_token``, ``eos_token``, ...), from the files next to ``tokenizer.json``."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            for name, token in read_json(folder / file).items():
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    named[name] = content
    return named
