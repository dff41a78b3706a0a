"""Texts as rows of tokens: the beginning of each, as many as a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.selection.pds.language_model import TokenRow
from megatron_ipt.selection.windows import Framing

_TEXTS_AT_ONCE = 512
"""Given to the tokenizer together."""


def framing_of(tokenizer: PromptTokenizer, prepend_bos: bool, append_eod: bool) -> Framing:
    """How texts are framed."""
    return Framing(tokenizer.bos_id if prepend_bos else None, tokenizer.eos_id, append_eod)


def token_rows(texts: Sequence[str], tokenizer: PromptTokenizer, framing: Framing, seq_length: int) -> list[TokenRow]:
    """A row for each text: its first ``seq_length`` tokens and the one that the last of them predicts.

    The row of a text without tokens is empty.
    """
    made = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        for ids in tokenizer.encode(list(texts[first : first + _TEXTS_AT_ONCE])):
            framed = framing.framed(ids)[: seq_length + 1]
            made.append(TokenRow(framed.astype(np.int64), framing.counted(framed)))
    return made


def predicts(row: TokenRow) -> bool:
    """Whether a row has a token to predict."""
    return len(row.ids) > 1 and (row.mask is None or bool(row.mask[1:].any()))
