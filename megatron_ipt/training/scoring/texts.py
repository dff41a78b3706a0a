"""From requests to padded micro-batches and back to scores: arithmetic without torch, the same for any layout.

Texts are sorted by length, so that little is padded, and the longest come first, so that running out of memory shows at
once. What comes after a text's last counted token cannot influence its score and is not computed. The micro-batches
depend on nothing but the set of requests and the token budget: scores are the same to the last bit for any order of the
requests and any number of copies of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.inference.scoring import Score, ScoreRequest, fills_batch

_BATCHES_PER_STAGE = 8


@dataclass(frozen=True)
class Text:
    """A valid request, cut after its last counted token.

    Attributes:
        ids: [n + 1], the first n of which the model reads; empty if no token counts.
        counted: [n], which of ``ids[1:]`` count.
    """

    ids: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]

    @property
    def length(self) -> int:
        """Tokens that the model has to read."""
        return len(self.counted)

    @property
    def key(self) -> tuple[int, bytes, bytes]:
        """Sorts texts by falling length, and otherwise by what they are."""
        return -self.length, self.ids.tobytes(), self.counted.tobytes()


@dataclass(frozen=True)
class MicroBatch:
    """Texts that go through the model together, padded at the end to the same length.

    Attributes:
        tokens: what the model reads, [batch, seq].
        labels: what it is to predict, [batch, seq].
        counted: which predictions count, [batch, seq].
    """

    tokens: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Limits:
    """What a model can read.

    Attributes:
        vocab_size: ids are below this.
        positions: maximum tokens that it reads, one less than the ids of a text, as the last id is only predicted.
    """

    vocab_size: int
    positions: int

    def checked_ids(self, ids: object, name: str) -> npt.NDArray[np.int64]:
        """``ids`` of any shape as an array, if they are of the vocabulary.

        Raises:
            InputError: begins with ``name``.
        """
        try:
            array = np.asarray(ids)
        except ValueError as error:
            raise InputError(f"{name}: token ids cannot be read as an array: {error}") from error
        if array.size == 0:
            raise InputError(f"{name}: no token ids; leave empty texts out")
        if array.dtype.kind not in "iu":
            raise InputError(f"{name}: token ids are integers, found {array.dtype}")
        wrong = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if len(wrong):
            raise InputError(
                f"{name}: id {array.flat[wrong[0]]} at position {wrong[0]} is outside the vocabulary of "
                f"{self.vocab_size} that the checkpoint was trained with; tokenize with that model's tokenizer"
            )
        return array.astype(np.int64, copy=False)

    def check_length(self, length: int, name: str) -> None:
        """Refuses a text of which the model would have to read ``length`` tokens, if it cannot.

        Raises:
            InputError: begins with ``name``.
        """
        if length > self.positions:
            raise InputError(
                f"{name}: the model would have to read {length} tokens and has {self.positions} positions; cut the "
                f"text into windows of at most {self.positions + 1} ids that overlap by one token"
            )


def check_requests(requests: Sequence[ScoreRequest], limits: Limits) -> list[Text]:
    """The requests as texts, in order.

    Raises:
        InputError: names the index of the first request that cannot be scored, and why.
    """
    return [check_request(request, limits, f"request {index}") for index, request in enumerate(requests)]


def check_request(request: ScoreRequest, limits: Limits, name: str) -> Text:
    """``request`` as a text.

    Raises:
        InputError: it cannot be scored; begins with ``name``.
    """
    ids = limits.checked_ids(request.ids, name)
    if ids.ndim != 1:
        raise InputError(f"{name}: expected one list of token ids, found an array of shape {list(ids.shape)}")
    limits.check_length(len(ids) - 1, name)
    counted = np.ones(len(ids), np.bool_) if request.mask is None else np.asarray(request.mask, np.bool_)
    positions = np.flatnonzero(counted[1:])
    length = int(positions[-1]) + 1 if len(positions) else 0
    return Text(ids[: length + 1].astype(np.int32) if length else ids[:0].astype(np.int32), counted[1 : length + 1])


def plan(texts: Sequence[Text], batch_tokens: int) -> list[list[int]]:
    """Indices of the texts of each micro-batch, the longest texts first. A text without counted tokens is in none.

    Args:
        batch_tokens: maximum tokens of a micro-batch, padding included, unless it is of a single text.
    """
    # Ties by content: the same requests in another order make the same micro-batches.
    order = sorted((index for index, text in enumerate(texts) if text.length), key=lambda index: texts[index].key)
    batches: list[list[int]] = []
    for index in order:
        length = texts[index].length
        if not batches or not fills_batch(len(batches[-1]) + 1, length, texts[batches[-1][0]].length, batch_tokens):
            batches.append([])
        batches[-1].append(index)
    return batches


def collate(texts: Sequence[Text], multiple_of: int = 1) -> MicroBatch:
    """Pads ``texts`` to the length of the longest, rounded up to ``multiple_of``."""
    width = max(text.length for text in texts)
    shape = len(texts), -(-width // multiple_of) * multiple_of
    batch = MicroBatch(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.bool_))
    for row, text in enumerate(texts):
        batch.tokens[row, : text.length] = text.ids[:-1]
        batch.labels[row, : text.length] = text.ids[1:]
        batch.counted[row, : text.length] = text.counted
    return batch


def scores(texts: Sequence[Text], sums: npt.NDArray[np.float64]) -> list[Score]:
    """The scores of ``texts`` from their summed log-probabilities, [texts] in nats.

    Raises:
        StageError: a sum is NaN or infinite; names the index of the request.
    """
    wrong = np.flatnonzero(~np.isfinite(sums))
    if len(wrong):
        others = f" (and {len(wrong) - 1:,} more of {len(texts):,})" if len(wrong) > 1 else ""
        raise StageError(
            f"request {wrong[0]}{others}: the model gave a log-likelihood of {sums[wrong[0]]}. Its weights may be "
            "damaged or have diverged in training; if only some texts are affected, score in fp32"
        )
    return [Score(float(total), int(text.counted.sum())) for text, total in zip(texts, sums)]


def work_items(batches: int, copies: int, stages: int) -> Iterator[range]:
    """Divides ``batches`` micro-batches into portions to be handed to copies of the model one at a time.

    A pipeline of several stages fills and drains once for each portion, so it gets larger ones, provided that there are
    some for every copy: with 8 micro-batches per stage it idles for less than 1/9 of the time.
    """
    size = 1 if stages == 1 else max(1, min(_BATCHES_PER_STAGE * stages, batches // copies))
    for first in range(0, batches, size):
        yield range(first, min(first + size, batches))
