"""Megatron-LM's ``--tokenizer-type`` names: which library, which ids around a text, which id ends a document.

Two generations differ. The current one (``megatron.core.tokenizers``) passes text to the library unchanged; the
previous one, which ``legacy`` selects, put BOS before every text of Llama2Tokenizer and gave SentencePieceTokenizer
additional tokens, among them ``<EOD>``. HuggingFaceTokenizer adds what the published tokenizer adds, unless told not
to. In one respect this package differs from all of them: control tokens written out in a text stay text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.tokens.tokenizer.hugging_face_folder import HuggingFaceTokenizer
from megatron_ipt.tokens.tokenizer.interface import Tokenizer
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

_LEGACY_TOKENS = ("<CLS>", "<SEP>", "<EOD>", "<MASK>")


@dataclass(frozen=True)
class Conventions:
    """How a tokenizer type is used.

    Attributes:
        tokenizer: the tokenizer that encodes.
        vocab_size: every id is less than it; decides the data type.
        eod_id: what ``--append-eod`` appends.
        text_head, text_tail: ids around every text.
    """

    tokenizer: Tokenizer
    vocab_size: int
    eod_id: int
    text_head: tuple[int, ...] = ()
    text_tail: tuple[int, ...] = ()


def conventions(kind: str, model: str, legacy: bool = False, template: bool = True) -> Conventions:
    """What Megatron-LM means by tokenizer type ``kind``.

    Args:
        model: a ``.model`` file, or a folder with ``tokenizer.json``.
        legacy: the generation before ``megatron.core.tokenizers``.
        template: whether a Hugging Face tokenizer puts the control tokens of its post-processor around every text.

    Raises:
        RecipeError: the type is unknown.
        InputError: the tokenizer cannot be read.
    """
    if kind not in TYPES:
        raise RecipeError(f"--tokenizer-type {kind}: not one of {', '.join(TYPES)}")
    return TYPES[kind](model, legacy, template)


def _plain_sentencepiece(model: str, legacy: bool, template: bool) -> Conventions:
    tokenizer = _read_sentencepiece(model)
    return Conventions(tokenizer, tokenizer.vocab_size, tokenizer.eod_id)


def _sentencepiece(model: str, legacy: bool, template: bool) -> Conventions:
    plain = _plain_sentencepiece(model, legacy, template)
    if not legacy:
        return plain
    tokenizer = _read_sentencepiece(model)
    pieces = {tokenizer.piece(i): i for i in range(tokenizer.vocab_size)}
    absent = {"<PAD>": tokenizer.pad_id is None, "<BOS>": tokenizer.bos_id is None}
    for token in (*_LEGACY_TOKENS, *(token for token, added in absent.items() if added)):
        pieces.setdefault(token, len(pieces))
    return Conventions(tokenizer, len(pieces), pieces["<EOD>"])


def _llama2(model: str, legacy: bool, template: bool) -> Conventions:
    plain = _plain_sentencepiece(model, legacy, template)
    if not legacy:
        return plain
    bos_id = plain.tokenizer.bos_id
    if bos_id is None:
        raise InputError(f"{model}: Llama2Tokenizer begins texts with BOS, which this model does not have")
    return Conventions(plain.tokenizer, plain.vocab_size, plain.eod_id, text_head=(bos_id,))


def _hugging_face(model: str, legacy: bool, template: bool) -> Conventions:
    folder = Path(model)
    if folder.name == "tokenizer.json":
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(
            f"--tokenizer-model {model}: no such folder; nothing is downloaded here, so name the folder that holds "
            "tokenizer.json and tokenizer_config.json"
        )
    tokenizer = HuggingFaceTokenizer(folder)
    head, tail = tokenizer.template() if template else ([], [])
    return Conventions(tokenizer, tokenizer.vocab_size, tokenizer.eod_id, tuple(head), tuple(tail))


def _read_sentencepiece(model: str) -> SentencePieceTokenizer:
    path = Path(model)
    return SentencePieceTokenizer.read(path / "tokenizer.model" if path.is_dir() else path)


TYPES: dict[str, Callable[[str, bool, bool], Conventions]] = {
    "SentencePieceTokenizer": _sentencepiece,
    "GPTSentencePieceTokenizer": _plain_sentencepiece,
    "Llama2Tokenizer": _llama2,
    "HuggingFaceTokenizer": _hugging_face,
}


def save(tokenizer: Any, folder: Path) -> None:
    """Writes ``tokenizer`` to ``folder`` for the processes that encode, with ``tokenizer.json`` if that is exact."""
    try:
        tokenizer.save(folder)
    except InputError:
        # Without it only the fast encoder cannot be used.
        tokenizer.save_model(folder)
