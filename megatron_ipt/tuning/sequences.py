"""What the two kinds of tuning make of a record: ids of which a part is to be predicted."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.inference.tokenizer import PromptTokenizer


@dataclass
class Masked:
    """Ids with their loss mask.

    Attributes:
        ids: as in training, control tokens included.
        mask: 1 where the token is to be predicted, else 0; of the same length.
    """

    ids: list[int]
    mask: list[int]

    def add(self, ids: list[int], predicted: bool) -> None:
        self.ids += ids
        self.mask += [int(predicted)] * len(ids)


class Continuation:
    """Encodes texts that go on after ``before``.

    A tokenizer may see a word at the beginning of a text otherwise than inside one (SentencePiece puts a blank before
    it). What a model writes after a prompt goes on inside; so the ids of ``before`` + text are taken, without those of
    ``before``. Where these are not a prefix, because the tokenizer joins across the seam, the text is encoded apart.
    """

    def __init__(self, tokenizer: PromptTokenizer, before: str):
        self._tokenizer = tokenizer
        self._before = before
        self._ids = tokenizer.encode([before])[0] if before else []

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without BOS and EOS."""
        whole = self._tokenizer.encode([self._before + text])[0]
        if whole[: len(self._ids)] == self._ids:
            return whole[len(self._ids) :]
        return self._tokenizer.encode([text])[0]
