"""Token ids with a loss mask, used by both kinds of tuning."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.inference.tokenizer import PromptTokenizer


@dataclass
class Masked:
    """Ids with their loss mask.

    Attributes:
        ids: ids including control tokens.
        mask: 1 if the token is predicted, else 0; of the same length.
    """

    ids: list[int]
    mask: list[int]

    def add(self, ids: list[int], predicted: bool) -> None:
        self.ids += ids
        self.mask += [int(predicted)] * len(ids)


class Continuation:
    """Encodes texts as continuations of ``before``.

    A tokenizer may encode a word differently at the start of a text than inside it (SentencePiece prepends a space). A
    completion continues its prompt, so ``before`` + text is encoded and the ids of ``before`` are removed. If these are
    not a prefix, because a token spans the boundary, the text is encoded separately.
    """

    def __init__(self, tokenizer: PromptTokenizer, before: str):
        self._tokenizer = tokenizer
        self._before = before
        self._ids = tokenizer.encode([before])[0] if before else []

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without BOS and EOS."""
        ids = self._tokenizer.encode([self._before + text])[0]
        if ids[: len(self._ids)] == self._ids:
            return ids[len(self._ids) :]
        return self._tokenizer.encode([text])[0]
