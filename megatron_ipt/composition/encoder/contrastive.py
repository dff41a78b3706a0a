"""Contrastive training of a sentence encoder on task labels (PICL, arXiv:2305.09137, section 3.1).

All weights are trained: a linear layer on top of fixed vectors separates the tasks it has seen and no others. For each
query, the loss is minus the mean log-softmax of its scores over all contexts of the batch, at the contexts of its task;
contexts of other queries count too.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.composition.config import EncoderConfig
from megatron_ipt.composition.encoder.model import SentenceEncoder, batches
from megatron_ipt.composition.encoder.tasks import Group
from megatron_ipt.errors import StageError
from megatron_ipt.files import atomic_folder
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import derive, generator

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_TOKENS_AT_ONCE = 8192
"""Of a forward pass, padding included; all passes of a step are kept for the backward one."""
_USE = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling", "2_Normalize")
"""Files beside a model that say how it is used; copied."""


@dataclass(frozen=True)
class Training:
    """How an encoder is trained.

    Attributes:
        epochs: passes over the queries.
        batch_size: queries of a step, each with its contexts.
        lr: peak learning rate; it falls to 0 in a line after a tenth of the steps.
        temperature: scores are divided by it; 1 for vectors that are not scaled to length 1.
        seed: of order and dropout.
    """

    epochs: float = 1.0
    batch_size: int = 64
    lr: float = 5e-5
    temperature: float = 0.05
    seed: int = 1234


def contrastive_loss(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean over queries of minus the mean log-softmax at the contexts of the query's task.

    Args:
        scores: [queries, contexts].
        positives: which contexts are of the query's task, bool [queries, contexts]; at least one each.
    """
    likelihoods = scores.float().log_softmax(-1)
    return -((likelihoods * positives).sum(-1) / positives.sum(-1)).mean()


def train_encoder(
    source: Path, output: Path, groups: Sequence[Group], training: Training, log: Callable[[int, float], None]
) -> list[float]:
    """Trains the encoder in ``source`` and writes a folder of the same kind; returns the loss of each step.

    Raises:
        InputError: the folder cannot be used.
        StageError: the loss is not finite.
    """
    import torch

    encoder = SentenceEncoder(EncoderConfig(str(source)), "encoder")
    encoder.model.float().train()
    torch.manual_seed(derive(training.seed, "dropout") % 2**63)
    per_epoch = max(1, len(groups) // training.batch_size)
    steps = max(1, round(training.epochs * per_epoch))
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=training.lr, weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    losses = []
    with Progress("encoder", steps, "steps") as bar:
        for step in range(steps):
            epoch, place = divmod(step, per_epoch)
            order = list(range(len(groups)))
            generator(training.seed, "order", epoch).shuffle(order)
            chosen = order[place * training.batch_size : (place + 1) * training.batch_size]
            loss = step_loss(encoder, [groups[number] for number in chosen], training.temperature)
            if not torch.isfinite(loss):
                raise StageError(f"encoder: the loss of step {step + 1} is {float(loss.detach())}; lower --lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            log(step + 1, losses[-1])
            bar.advance(1, loss=f"{losses[-1]:.3f}")
    save(encoder, source, output, training, losses)
    return losses


def step_loss(encoder: SentenceEncoder, batch: Sequence[Group], temperature: float) -> torch.Tensor:
    """Loss of one batch; equal contexts count once."""
    import torch

    contexts = list(dict.fromkeys(context for group in batch for context in group.contexts))
    ids = encoder.tokenize([*(group.query.text for group in batch), *(c.text for c in contexts)])
    # Texts of like length together: padded to the longest of all, most of a batch would be padding.
    places = list(batches(ids, _TOKENS_AT_ONCE))
    parts = torch.cat([encoder.forward([ids[number] for number in part]) for part in places])
    vectors = parts[torch.tensor([number for part in places for number in part]).argsort()]
    queries, others = vectors[: len(batch)], vectors[len(batch) :]
    positives = torch.tensor(
        [[c.task == group.query.task and c != group.query for c in contexts] for group in batch], device=vectors.device
    )
    return contrastive_loss(queries @ others.T / temperature, positives)


def save(encoder: SentenceEncoder, source: Path, output: Path, training: Training, losses: list[float]) -> None:
    """Writes a Hugging Face folder with the files that say how the encoder is used."""
    with atomic_folder(output) as folder:
        encoder.model.eval().save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        for name in _USE:
            path = source / name
            if path.is_dir():
                shutil.copytree(path, folder / name)
            elif path.is_file():
                shutil.copy(path, folder / name)
        said: dict[str, Any] = {"trained_from": str(source), **vars(replace(training)), "losses": losses}
        (folder / "contrastive.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
