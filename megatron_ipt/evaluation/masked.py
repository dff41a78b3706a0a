"""Loss on rows with a loss mask: on pairs but not texts, on responses but not prompts.

Rows are read as in training: as a whole, or sequence by sequence if ``training.data.reset_attention_mask`` isolates
packed sequences. Like the training loss, the mean is over predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_ipt.progress import Progress

if TYPE_CHECKING:
    from megatron_ipt.evaluation.language_model import LanguageModel
    from megatron_ipt.tuning.rows import RowReader

_BATCH_TOKENS = 4096

_Piece = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]


@torch.no_grad()
def masked_loss(model: LanguageModel, rows: RowReader, limit: int, isolated: bool, label: str) -> dict[str, Any]:
    """Mean loss of the tokens that the mask selects.

    Args:
        limit: tokens to read; the row that reaches the limit is the last one.
        isolated: packed sequences of a row do not attend to each other.

    Returns:
        ``{tokens, read_tokens, loss, perplexity}``: ``tokens`` were predicted, loss in nats per predicted token.
    """
    total, predicted, read = 0.0, 0, 0
    with Progress(label, min(limit, rows.tokens), "tokens") as bar:
        for batch in _batches(_pieces(rows, limit, isolated)):
            width = max(len(ids) for ids, _ in batch)
            # Padding is on the right, where causal attention ignores it.
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, (piece, predict) in enumerate(batch):
                ids[row, : len(piece)] = torch.from_numpy(piece)
                mask[row, 1 : len(piece)] = torch.from_numpy(predict[1:])
                read += len(piece)
            logits = model.model(ids[:, :-1].to(model.device)).logits.float()
            target_mask = mask[:, 1:].to(model.device)
            targets = ids[:, 1:].to(model.device)[target_mask]
            total += torch.nn.functional.cross_entropy(logits[target_mask], targets, reduction="sum").item()
            predicted += targets.numel()
            bar.advance(sum(len(piece) for piece, _ in batch), loss=total / max(predicted, 1))
    loss = total / max(predicted, 1)
    return {"tokens": predicted, "read_tokens": read, "loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def masked_targets(rows: RowReader, limit: int) -> npt.NDArray[np.int64]:
    """Ids of the predicted tokens in the rows that :func:`masked_loss` reads."""
    found = [ids[mask] for ids, mask in _pieces(rows, limit, isolated=False)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _pieces(rows: RowReader, limit: int, isolated: bool) -> Iterator[_Piece]:
    """Rows up to ``limit`` tokens, or their sequences if ``isolated``; the first token of each is not predicted."""
    read = 0
    for index in range(len(rows)):
        if read >= limit:
            return
        row = rows[index]
        read += len(row.ids)
        cuts = np.cumsum(row.lengths if isolated else [len(row.ids)])[:-1]
        for ids, mask in zip(np.split(row.ids, cuts), np.split(row.mask, cuts)):
            if len(ids) > 1 and mask[1:].any():
                yield ids, mask


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    width = 0
    for piece in pieces:
        width = max(width, len(piece[0]))
        if batch and width * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch, width = [], len(piece[0])
        batch.append(piece)
    if batch:
        yield batch
