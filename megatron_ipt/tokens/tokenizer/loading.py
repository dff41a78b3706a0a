"""Opens the tokenizer that was saved in a folder, and the encoder that is used for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from megatron_ipt.tokens.tokenizer.encoders import Encoder, open_encoder, usable_encoder
from megatron_ipt.tokens.tokenizer.hugging_face_folder import HuggingFaceTokenizer
from megatron_ipt.tokens.tokenizer.interface import Tokenizer
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer


def open_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that the tokens stage saved in ``folder``.

    A SentencePiece model is preferred if there is one: it is the original, ``tokenizer.json`` the copy.

    Raises:
        InputError: there is neither, or it cannot be read.
    """
    model = Path(folder) / "tokenizer.model"
    return SentencePieceTokenizer.read(model) if model.is_file() else HuggingFaceTokenizer(folder)


def choose_encoder(wanted: str, folder: Path) -> str:
    """Name of the encoder for the tokenizer in ``folder``: ``wanted``, or the fastest usable one if that is ``auto``.

    Raises:
        InputError: the encoder that was requested cannot be used.
    """
    tokenizer = open_tokenizer(folder)
    return usable_encoder(wanted, tokenizer.encoder, folder / "tokenizer.json", tokenizer.control_tokens)


@lru_cache(maxsize=4)
def encoder_for(folder: Path, name: str) -> Encoder:
    """Encoder ``name`` for the tokenizer in ``folder``; opened once per process."""
    return open_encoder(name, lambda: open_tokenizer(folder).encoder, folder / "tokenizer.json")
