"""Continues prompts with a model spread over tensor and pipeline parallel ranks, and its teacher if there is one.

All ranks of a copy of the model call :func:`generate` with the same prompts; copies (data-parallel ranks) have prompts
of their own and need not step together. One rank of the last stage chooses every token and tells the others, so that no
rank can take a different turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from megatron.core import parallel_state

from megatron_ipt.errors import InputError
from megatron_ipt.training.rollouts.choice import Choice, choose, random_numbers
from megatron_ipt.training.rollouts.decoder import Decoder, Feed, keep_rows
from megatron_ipt.training.rollouts.groups import group_by_length


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    Attributes:
        ids: new tokens, the end token included if there is one, [new].
        finished: an end token was chosen; False if the limit came first.
        log_probabilities: [new, 3] in fp32, see :class:`~megatron_ipt.training.rollouts.choice.Chosen`.
    """

    ids: npt.NDArray[np.int64]
    finished: bool
    log_probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """Where texts end.

    Attributes:
        max_new_tokens: of every prompt.
        positions: maximum tokens of prompt and continuation together.
        end_ids: tokens that end a text.
        rows: prompts that are continued together; their cache is in memory.
    """

    max_new_tokens: int
    positions: int
    end_ids: tuple[int, ...]
    rows: int = 64

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuses what cannot be continued.

        Raises:
            InputError: names the index of a prompt that is empty, or too long for even one new token.
        """
        for index, prompt in enumerate(prompts):
            if not len(prompt):
                raise InputError(f"prompt {index}: no token ids; a continuation needs at least one, e.g. BOS")
            if len(prompt) >= self.positions:
                raise InputError(
                    f"prompt {index}: {len(prompt)} tokens leave no room for a new one, as the model has "
                    f"{self.positions} positions; shorten the prompt"
                )


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    choice: Choice,
    limits: Limits,
    teacher: Decoder | None = None,
) -> list[Continuation]:
    """Continues ``prompts``, in their order.

    Args:
        seeds: of the random numbers of each prompt: derive them from the recipe's seed, the id of the prompt and the
            round, and a text is the same in any batch and layout.
        teacher: a model in the same layout, for ``choice.teacher_share`` and its log-probabilities.

    Raises:
        InputError: a prompt is empty or too long.
    """
    limits.check(prompts)
    at_once = parallel_state.get_pipeline_model_parallel_world_size()
    waiting = group_by_length([len(prompt) for prompt in prompts], limits.rows)
    found: dict[int, Continuation] = {}
    models = [model] if teacher is None else [model, teacher]
    with ExitStack() as stack:
        for each in models:
            stack.enter_context(each.ready())
        while waiting:
            # As many batches as there are pipeline stages: each stage has one at a time.
            wave, waiting = waiting[:at_once], waiting[at_once:]
            batches = [
                _Batch(models, [prompts[i] for i in rows], [seeds[i] for i in rows], rows, limits) for rows in wave
            ]
            while batches:
                logits = [each.read([batch.feed(number) for batch in batches]) for number, each in enumerate(models)]
                for number, batch in enumerate(batches):
                    batch.take([part[number] for part in logits if part], choice)
                    found |= batch.finished()
                batches = [batch for batch in batches if batch.is_open]
    return [found[index] for index in range(len(prompts))]


class _Batch:
    """Rows that step together.

    Args:
        rows: indices of their prompts.
    """

    def __init__(
        self,
        models: Sequence[Decoder],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        rows: Sequence[int],
        limits: Limits,
    ):
        self._device = torch.cuda.current_device()
        self._rows = np.array(rows)
        self._starts = np.array([len(prompt) for prompt in prompts])
        self._ends = np.minimum(self._starts + limits.max_new_tokens, limits.positions)
        self._ids = np.zeros((len(rows), self._ends.max()), np.int64)
        for row, prompt in enumerate(prompts):
            self._ids[row, : len(prompt)] = prompt
        self._logs = np.full((*self._ids.shape, 3), np.nan, np.float32)
        self._uniform = random_numbers(seeds, int((self._ends - self._starts).max()))
        self._stop = limits.end_ids
        self._stopped = np.zeros(len(rows), np.bool_)
        # The last token is chosen and not read.
        self._caches = [each.cache(len(rows), max(self._ids.shape[1] - 1, 1)) for each in models]
        self._known = int(self._starts.min())
        self._read = 0

    @property
    def is_open(self) -> bool:
        """Whether any row goes on."""
        return len(self._rows) > 0

    def feed(self, model: int) -> Feed:
        """The tokens that no model has read yet."""
        unread = torch.from_numpy(self._ids[:, self._read : self._known]).to(self._device)
        return Feed(unread, self._caches[model])

    def take(self, logits: Sequence[torch.Tensor], choice: Choice) -> None:
        """Adds the next token of each row: of its prompt if that is longer, or chosen by ``logits`` of the models."""
        column = self._known
        goes_on = ~self._stopped & (column < self._ends)
        chosen = column >= self._starts
        places = torch.from_numpy(np.clip(column - self._starts, 0, self._uniform.shape[1] - 1))
        uniform = self._uniform.gather(1, places.unsqueeze(1)).squeeze(1)
        ids, logs = _agree(logits, uniform, choice, len(self._rows), self._device)
        new = chosen & goes_on
        self._ids[new, column] = ids[new]
        self._logs[new, column] = logs[new]
        self._stopped |= new & np.isin(ids, self._stop)
        self._read, self._known = column, column + 1

    def finished(self) -> dict[int, Continuation]:
        """Texts that have ended since the last call, by the index of their prompt; forgets some of what they held."""
        over = self._stopped | (self._known >= self._ends)
        found = {}
        for row in np.flatnonzero(over & (self._rows >= 0)):
            end = self._known if self._stopped[row] else self._ends[row]
            part = slice(self._starts[row], end)
            found[int(self._rows[row])] = Continuation(
                self._ids[row, part].copy(), bool(self._stopped[row]), self._logs[row, part].copy()
            )
            self._rows[row] = -1
        left = np.flatnonzero(self._rows >= 0)
        # Rows that have ended are carried along until they are the half: leaving them out copies the cache.
        if 2 * len(left) <= len(self._rows):
            self._keep(left)
        return found

    def _keep(self, rows: npt.NDArray[np.int64]) -> None:
        self._rows, self._starts, self._ends = self._rows[rows], self._starts[rows], self._ends[rows]
        self._ids, self._logs, self._stopped = self._ids[rows], self._logs[rows], self._stopped[rows]
        kept = torch.from_numpy(rows)
        self._uniform = self._uniform[kept]
        for cache in self._caches:
            keep_rows(cache, kept.to(self._device))


def _agree(
    logits: Sequence[torch.Tensor], uniform: torch.Tensor, choice: Choice, rows: int, device: torch.device
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Ids [rows] and log-probabilities [rows, 3], chosen on the first rank of the last stage and told to the others."""
    told = torch.zeros(rows, 4, dtype=torch.float64, device=device)
    tensor, pipeline = (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
    )
    if logits and tensor.rank() == 0:
        teacher = logits[1] if len(logits) > 1 else None
        found = choose(logits[0], teacher, uniform.to(device), choice)
        told[:, 0] = found.ids
        told[:, 1:] = found.log_probabilities
    if logits and tensor.size() > 1:
        torch.distributed.broadcast(told, parallel_state.get_tensor_model_parallel_src_rank(), group=tensor)
    if pipeline.size() > 1:
        torch.distributed.broadcast(told, parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline)
    values = told.cpu().numpy()
    return values[:, 0].astype(np.int64), values[:, 1:].astype(np.float32)
