"""What the rest of the package needs of a tokenizer, whatever library it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from megatron_ipt.tokens.tokenizer.encoders import Encoder, Ids


class Tokenizer(Protocol):
    """Text to ids and back.

    Text is encoded without control tokens: a literal ``</s>`` in a document stays text. BOS and EOD are added by the
    caller, as ids.

    Attributes:
        vocab_size: every id is less than it.
        bos_id: beginning of sequence, or None.
        eod_id: end of document.
        pad_id: padding, or None.
        encoder: the library that the tokenizer was made for.
    """

    vocab_size: int
    bos_id: int | None
    eod_id: int
    pad_id: int | None
    encoder: Encoder

    @property
    def control_tokens(self) -> list[str]:
        """Control tokens and others that were added to the trained vocabulary, as text."""
        ...

    def encode(self, texts: list[str]) -> list[Ids]:
        """Ids of every text, 1-d, without BOS and EOD."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the files from which transformers and this package load it."""
        ...
