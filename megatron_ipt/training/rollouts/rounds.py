"""Rounds of a training on its own responses, and what is kept of them.

A round draws responses to a number of prompts and then trains on them for some epochs. Every rank holds all of them,
which are few numbers, so each step may take any, in an order that depends on the seed and not on the ranks; and a
checkpoint within a round has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.seeding import derive
from megatron_ipt.training.rollouts.generate import Continuation

NGRAM = 4
"""Tokens of the sequences that count as repeated."""


@dataclass(frozen=True)
class Place:
    """Where a step is: round, epoch within it and step within that, all counted from 0."""

    round: int
    epoch: int
    part: int


@dataclass(frozen=True)
class Rounds:
    """Attributes:
    units: what is trained on and shuffled in a round: responses, or pairs of them.
    epochs: passes over them.
    batch: units of a step; divides ``units``.
    """

    units: int
    epochs: int
    batch: int

    @property
    def steps(self) -> int:
        """Steps in a round."""
        return self.units * self.epochs // self.batch

    def place(self, step: int) -> Place:
        """Of the step with this number, counted from 1."""
        number, within = divmod(step - 1, self.steps)
        return Place(number, *divmod(within, self.units // self.batch))

    def units_of(self, place: Place, seed: int) -> npt.NDArray[np.int64]:
        """The units of that step, [batch]."""
        shuffle = np.random.default_rng(derive(seed, "responses", place.round, place.epoch))
        return shuffle.permutation(self.units)[place.part * self.batch :][: self.batch]


@dataclass(frozen=True)
class Responses:
    """The responses of a round, padded to the longest text.

    Attributes:
        round: its number.
        ids: prompts and responses, int64 [responses, longest].
        prompt_lengths, lengths: tokens of the prompt and of the response, [responses].
        finished: whether an end token ended it, [responses].
        logs: log-probabilities of the tokens of the response, at their places in ``ids``, fp32 [responses, longest, 3];
            see :class:`~megatron_ipt.training.rollouts.choice.Chosen`.
    """

    round: int
    ids: npt.NDArray[np.int64]
    prompt_lengths: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    finished: npt.NDArray[np.bool_]
    logs: npt.NDArray[np.float32]

    @classmethod
    def of(cls, number: int, prompts: Sequence[Sequence[int]], texts: Sequence[Continuation]) -> Responses:
        """Of prompts and what follows them."""
        starts = np.array([len(prompt) for prompt in prompts], np.int64)
        lengths = np.array([len(text.ids) for text in texts], np.int64)
        shape = len(texts), int((starts + lengths).max(initial=0))
        ids, logs = np.zeros(shape, np.int64), np.zeros((*shape, 3), np.float32)
        for row, (prompt, text) in enumerate(zip(prompts, texts)):
            part = slice(starts[row], starts[row] + lengths[row])
            ids[row, : starts[row]] = prompt
            ids[row, part], logs[row, part] = text.ids, text.log_probabilities
        return cls(number, ids, starts, lengths, np.array([text.finished for text in texts], np.bool_), logs)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors on CPU."""
        import torch

        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Responses:
        values: dict[str, Any] = {
            name: value if isinstance(value, int) else value.numpy() for name, value in state.items()
        }
        return cls(**values)

    def rows(self, indices: npt.NDArray[np.int64], seq_length: int) -> dict[str, npt.NDArray[Any]]:
        """Samples as the model reads them: position i predicts token i + 1.

        Returns:
            ``tokens``, ``labels`` (int64) and ``response_mask`` (fp32), each [rows, seq length], and ``logs`` of the
            labels, [rows, seq length, 3].
        """
        shape = len(indices), seq_length
        tokens, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        mask, logs = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
        for row, index in enumerate(indices):
            start, end = self.prompt_lengths[index], self.prompt_lengths[index] + self.lengths[index]
            tokens[row, : end - 1] = self.ids[index, : end - 1]
            labels[row, : end - 1] = self.ids[index, 1:end]
            mask[row, start - 1 : end - 1] = 1
            logs[row, start - 1 : end - 1] = self.logs[index, start:end]
        return {"tokens": tokens, "labels": labels, "response_mask": mask, "logs": logs}

    def repetition(self, index: int) -> float:
        """Share of the sequences of :data:`NGRAM` tokens in a response that occur in it before."""
        start = self.prompt_lengths[index]
        text = self.ids[index, start : start + self.lengths[index]].tolist()
        grams = [tuple(text[at : at + NGRAM]) for at in range(len(text) - NGRAM + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0
