"""Rows of the data with the student's own response in place of theirs: the on-policy part of GKD (Agarwal et al. 2024,
arXiv:2306.13649).

Which rows are replaced and what is drawn depends on the seed, the step and the row's place in the global batch. Nothing
is kept between steps: every step draws with the weights that it is about to change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state

from megatron_ipt.errors import RecipeError
from megatron_ipt.seeding import derive, unit_interval
from megatron_ipt.training.objectives.objective import Batch, Step, TrainingSetup
from megatron_ipt.training.rollouts.choice import Choice
from megatron_ipt.training.rollouts.config import OnPolicyConfig
from megatron_ipt.training.rollouts.decoder import Decoder
from megatron_ipt.training.rollouts.generate import Continuation, Limits, generate
from megatron_ipt.training.rollouts.rounds import Responses

OWN = "own_response"
"""Key in a batch: 1 for rows that were replaced, [batch]."""
FIGURES = "own_figures"
"""Key in a batch: tokens, whether no end token ended it, and repetition of the student's response, [batch, 3]."""
SECONDS = "rollout_seconds"
"""Key in the first micro-batch of a step: seconds in which responses were drawn."""


@dataclass(frozen=True)
class _Row:
    batch: int
    row: int
    number: int
    prompt: list[int]


class OwnResponses:
    """Draws them. Every rank makes one, at the same time.

    Args:
        vocabulary: ids that may be drawn are below it.

    Raises:
        RecipeError: the data has no prompts.
    """

    def __init__(self, config: OnPolicyConfig, setup: TrainingSetup, vocabulary: int):
        if all(source.loss_mask is None for source in setup.tokens.train):
            raise RecipeError(
                f"training.distillation.on_policy.fraction: {setup.tokens.directory} has no rows with a "
                "loss mask, so there are no prompts to continue; train on the output of a tuning stage"
            )
        self._config, self._setup = config, setup
        self._decoder = Decoder(setup.chunks[0], vocabulary)
        positions = min(setup.config.seq_length(), setup.shape.max_position_embeddings)
        self._limits = Limits(config.max_new_tokens, positions, (setup.tokens.eod_id,), config.generation_batch_size)

    def replace(self, step: Step, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of a step with some rows replaced; those of a validation as they are."""
        if not step.training:
            return batches
        began = time.monotonic()
        rows = [row for row in self._rows(step, batches) if self._takes_part(step, row)]
        seeds = [derive(self._setup.seed, "own response", step.number, row.number) for row in rows]
        prompts = [row.prompt for row in rows]
        with self._setup.whole_weights():
            texts = generate(self._decoder, prompts, seeds, Choice(self._config.temperature), self._limits)
        made = [self._marked(batch) for batch in batches]
        for row, text in zip(rows, texts):
            self._write(made[row.batch], row, text)
        made[0][SECONDS] = made[0]["loss_mask"].new_tensor(time.monotonic() - began)
        return made

    def _rows(self, step: Step, batches: list[Batch]) -> Iterator[_Row]:
        """Rows of this rank that have a prompt: tokens before the first one that counts."""
        rank, ranks = parallel_state.get_data_parallel_rank(), self._setup.layout.data
        for index, batch in enumerate(batches):
            size = len(batch["tokens"])
            counted = batch["loss_mask"].cpu().numpy() > 0
            tokens = batch["tokens"].cpu().numpy()
            for row in range(size):
                first = int(counted[row].argmax()) if counted[row].any() else 0
                if 0 < first < self._limits.positions - 1:
                    number = (index * ranks + rank) * size + row
                    yield _Row(index, row, number, tokens[row, : first + 1].tolist())

    def _takes_part(self, step: Step, row: _Row) -> bool:
        return unit_interval(self._setup.seed, "on policy", step.number, row.number) < self._config.fraction

    def _marked(self, batch: Batch) -> Batch:
        """A copy that may be written to."""
        own = batch["loss_mask"].new_zeros(len(batch["tokens"]))
        return {name: tensor.clone() for name, tensor in batch.items()} | {
            OWN: own,
            FIGURES: own.new_zeros(len(own), 3),
        }

    def _write(self, batch: Batch, row: _Row, text: Continuation) -> None:
        response = Responses.of(0, [row.prompt], [text])
        values = response.rows(np.array([0]), batch["tokens"].size(1))
        for name, value in (("tokens", "tokens"), ("labels", "labels"), ("loss_mask", "response_mask")):
            batch[name][row.row] = torch.from_numpy(values[value][0]).to(batch[name])
        if "attention_mask" in batch:
            # One sequence, whatever the row was made of.
            batch["attention_mask"][row.row].fill_(True).triu_(1)
        batch[OWN][row.row] = 1
        figures = (response.lengths[0], not response.finished[0], response.repetition(0))
        batch[FIGURES][row.row] = batch[FIGURES].new_tensor([float(figure) for figure in figures])


def own_figures(batch: Batch) -> dict[str, tuple[Any, Any]]:
    """(sum, count) of what there is to say about the student's own responses in a micro-batch."""
    own = batch[OWN]
    found = {"own_responses": (own.sum(), own.new_tensor(float(len(own))))}
    for column, name in enumerate(("response_tokens", "truncated", "repetition")):
        found[name] = batch[FIGURES][:, column].sum(), own.sum()
    if SECONDS in batch:
        found[SECONDS] = batch[SECONDS], batch[SECONDS].new_tensor(1.0)
    return found
