"""Encoders: the libraries that turn texts into ids, behind one method.

A tokenizer has one exact encoder, the library it was made for (SentencePiece or Hugging Face tokenizers), and may have
a fast one: ``gigatoken``, six to ten times as fast. The fast one is used only if it agrees with the exact one on
adversarial texts when it is loaded, and while it is used a passage of every batch is compared again. No encoder turns
control tokens that are written out in a text into control ids: SentencePiece never does, tokenizers is told not to,
and gigatoken gets a definition without them. Recipes call an encoder ``engine``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.tokenizer.long_texts import Ids, encode_in_parts
from megatron_ipt.tokens.tokenizer.probes import first_difference

logger = logging.getLogger(__name__)

_COMPARED_CHARACTERS = 500


class Encoder(Protocol):
    """Turns texts into ids.

    Attributes:
        name: as in ``tokens.tokenizer.engine``.
    """

    name: str

    def encode(self, texts: list[str]) -> list[Ids]:
        """Ids of every text, 1-d, without BOS and EOD."""
        ...


class SentencePieceEncoder:
    """The reference for ``.model`` files.

    Args:
        processor: a ``SentencePieceProcessor``.
    """

    name = "sentencepiece"

    def __init__(self, processor: Any):
        self._processor = processor
        try:
            processor.encode(["a"], return_type="numpy")
            self._as_arrays = {"return_type": "numpy"}
        except (TypeError, ValueError, AttributeError):
            self._as_arrays = {}

    def encode(self, texts: list[str]) -> list[Ids]:
        return encode_in_parts(self._encode, texts)

    def _encode(self, texts: list[str]) -> list[Ids]:
        encoded = self._processor.encode(texts, num_threads=1, **self._as_arrays)
        return encoded if self._as_arrays else [np.array(ids, np.int32) for ids in encoded]


class TokenizersEncoder:
    """The reference for ``tokenizer.json``.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` with ``encode_special_tokens`` set, so that they stay text.
    """

    name = "tokenizers"

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def encode(self, texts: list[str]) -> list[Ids]:
        return encode_in_parts(self._encode, texts)

    def _encode(self, texts: list[str]) -> list[Ids]:
        # One at a time: an encoding takes a hundred bytes per token.
        encode = self._tokenizer.encode_batch_fast
        return [np.array(encode([text], add_special_tokens=False)[0].ids, np.int32) for text in texts]


class GigatokenEncoder:
    """The fast encoder for BPE, from the content of a ``tokenizer.json``.

    Raises:
        ValueError: the library does not support this kind of tokenizer.
        ImportError: it is not installed.
    """

    name = "gigatoken"

    def __init__(self, definition: bytes):
        from gigatoken.gigatoken_rs import load_hf_json

        self._backend = load_hf_json(_without_control_tokens(definition))

    def encode(self, texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        # A batch starts with an empty cache. Text by text is as fast, but its cache grows with the corpus.
        layout = self._backend.encode_batch(texts, parallel=False).layout
        ids = np.asarray(layout.content.data)
        return [ids[start:end] for start, end in pairwise(np.asarray(layout.offsets.data).tolist())]


class CheckedEncoder:
    """A fast encoder that is checked against the exact one on a passage of every batch.

    Args:
        fast: does the work.
        exact: opens the encoder to compare with, when it is first needed.
    """

    def __init__(self, fast: Encoder, exact: Callable[[], Encoder]):
        self.name = fast.name
        self._fast = fast
        self._open_exact = exact
        self._exact: Encoder | None = None

    def encode(self, texts: list[str]) -> list[Ids]:
        encoded = self._fast.encode(texts)
        passage = next((text for text in texts if text), "")[:_COMPARED_CHARACTERS]
        self._exact = self._exact or self._open_exact()
        if not np.array_equal(self._fast.encode([passage])[0], self._exact.encode([passage])[0]):
            raise InputError(
                f"tokens.tokenizer.engine: {self._fast.name} and {self._exact.name} disagree on {passage[:200]!r}...; "
                f"set the engine to {self._exact.name} and discard the encoded data"
            )
        return encoded


def usable_encoder(wanted: str, exact: Encoder, definition: Path, control_tokens: list[str]) -> str:
    """Name of the encoder to use for a tokenizer.

    Args:
        wanted: ``auto`` or the name of an encoder; ``auto`` takes gigatoken if it is installed and agrees.
        exact: the encoder that is right by definition.
        definition: the tokenizer's ``tokenizer.json``; may be missing.
        control_tokens: control tokens of the vocabulary, as text.

    Raises:
        InputError: the encoder that was requested cannot be used for this tokenizer.
    """
    if wanted == exact.name:
        return wanted
    if wanted not in ("auto", GigatokenEncoder.name):
        raise InputError(f"tokens.tokenizer.engine: {wanted} cannot read this tokenizer; use {exact.name} or auto")
    reason = _why_not_gigatoken(exact, definition, control_tokens)
    if reason is None:
        return GigatokenEncoder.name
    if wanted == GigatokenEncoder.name:
        raise InputError(f"tokens.tokenizer.engine: gigatoken: {reason}; use auto or {exact.name}")
    logger.info("tokens: engine %s, because gigatoken: %s", exact.name, reason)
    return exact.name


def open_encoder(name: str, exact: Callable[[], Encoder], definition: Path) -> Encoder:
    """The encoder that :func:`usable_encoder` named; ``exact`` opens the exact one when it is needed."""
    if name != GigatokenEncoder.name:
        return exact()
    return CheckedEncoder(GigatokenEncoder(definition.read_bytes()), exact)


def _why_not_gigatoken(exact: Encoder, definition: Path, control_tokens: list[str]) -> str | None:
    if not definition.is_file():
        return "this tokenizer has no tokenizer.json"
    try:
        fast = GigatokenEncoder(definition.read_bytes())
        different = first_difference(fast.encode, exact.encode, control_tokens)
    except ImportError:
        return "not installed (pip install gigatoken)"
    except (ValueError, RuntimeError, NotImplementedError) as error:
        # The library adds a line with the place in its own source.
        return f"does not support this tokenizer: {str(error).splitlines()[0] if str(error) else error!r}"
    return None if different is None else f"gives other ids than {exact.name} for {different!r}"


def _without_control_tokens(definition: bytes) -> str:
    content = orjson.loads(definition)
    content["added_tokens"] = [token for token in content.get("added_tokens") or [] if not token.get("special")]
    content["truncation"] = content["padding"] = None
    return orjson.dumps(content).decode()
