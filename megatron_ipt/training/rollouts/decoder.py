"""A model that reads a few tokens at a time and remembers the keys and values of those before.

Megatron-Core's own context holds the cache, one position for all rows of a batch, so rows that step together must have
read equally many tokens. Several batches may be in flight: each is a micro-batch of the pipeline schedule, which keeps
the stages busy. The output layer sees only the last position of every row.

A single token cannot be split over ranks along the sequence, so sequence parallelism is off while a model decodes. This
changes where activations lie, not what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

from megatron_ipt.errors import StageError
from megatron_ipt.training.model.last_layer import output_logits, stopped_before_output
from megatron_ipt.training.rollouts.config import CANNOT_DRAW


@dataclass(frozen=True)
class Feed:
    """What one batch reads next.

    Attributes:
        tokens: [rows, new tokens].
        cache: of the same rows; advanced by the new tokens.
    """

    tokens: torch.Tensor
    cache: StaticInferenceContext


class Decoder:
    """This rank's part of a model, for decoding.

    Args:
        module: the one chunk of the model on this rank, without wrappers.
        vocab_size: entries of the vocabulary that mean something.
        output: maps hidden states [rows, hidden size] to the logits of this rank's columns of the vocabulary, which the
            tensor-parallel ranks of the run split; by default the output layer of ``module``.
        schedule: Megatron-Core's, for the process groups of ``module``; by default those of the run.
        stages: pipeline stages of ``module``; by default those of the run.

    Raises:
        StageError: the layout of the model does not allow decoding.
    """

    def __init__(
        self,
        module: Any,
        vocab_size: int,
        output: Callable[[torch.Tensor], torch.Tensor] | None = None,
        schedule: Callable[..., Any] | None = None,
        stages: int | None = None,
    ):
        config = module.config
        for name, why in CANNOT_DRAW.items():
            if (getattr(config, name) or 1) > 1:
                raise StageError(f"generation: not with {name}={getattr(config, name)}: {why}")
        if config.fp8:
            raise StageError("generation: not in fp8, whose kernels need more than a token at a time; use bf16")
        self._module = module
        self._vocab_size = vocab_size
        self._output = output or partial(output_logits, module)
        self._schedule = schedule or get_forward_backward_func()
        self._stages = stages or parallel_state.get_pipeline_model_parallel_world_size()

    def cache(self, rows: int, length: int) -> StaticInferenceContext:
        """An empty cache for ``rows`` texts of up to ``length`` tokens; memory is taken when a layer first writes."""
        return StaticInferenceContext(rows, length)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model in its state for decoding; outside, it is as it was before."""
        module, config = self._module, self._module.config
        trained, variable = module.training, config.variable_seq_lengths
        module.eval()
        # Batches differ in shape, so that stages have to tell each other.
        config.variable_seq_lengths = True
        try:
            with torch.no_grad(), _without_sequence_parallelism(module):
                yield
        finally:
            config.variable_seq_lengths = variable
            module.train(trained)

    def read(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """Lets all batches read their tokens, on all ranks that hold the model and within :meth:`ready`.

        Returns:
            Logits [rows, vocab size] in fp32 of what follows the last token of each row, for each batch; an empty list
            on ranks that are not of the last pipeline stage of the run.
        """
        is_last = parallel_state.is_pipeline_last_stage()
        if self._stages == 1:
            # Whole on every rank, so it need not run where nobody asks for its logits.
            if not is_last:
                return []
            return [self._logits(self._hidden(feed)) for feed in feeds]
        rows, width = feeds[0].tokens.shape
        results: list[torch.Tensor] = self._schedule(
            forward_step_func=self._step,
            data_iterator=iter(feeds),
            model=self._module,
            num_microbatches=len(feeds),
            seq_length=width,
            micro_batch_size=rows,
            forward_only=True,
            collect_non_loss_data=True,
        )
        return results if is_last else []

    def _step(self, feeds: Iterator[Feed], module: Any) -> tuple[torch.Tensor, Any]:
        return self._hidden(next(feeds)), lambda hidden, non_loss_data: self._logits(hidden)

    def _hidden(self, feed: Feed) -> torch.Tensor:
        """Output [new tokens, rows, hidden size] of the last layer on this rank."""
        with stopped_before_output(self._module):
            hidden: torch.Tensor = self._module(
                feed.tokens, None, None, inference_context=feed.cache, runtime_gather_output=True
            )
        feed.cache.sequence_len_offset += feed.tokens.size(1)
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        part = self._output(hidden[-1])
        return gather_from_tensor_model_parallel_region(part)[:, : self._vocab_size].float()


def keep_rows(cache: StaticInferenceContext, rows: torch.Tensor) -> None:
    """Forgets all rows of ``cache`` but ``rows`` (indices)."""
    memory = cache.key_value_memory_dict
    for layer, (keys, values) in memory.items():
        memory[layer] = keys.index_select(1, rows), values.index_select(1, rows)
    cache.max_batch_size = len(rows)


_SPLIT_ALONG_SEQUENCE = ("sequence_parallel", "scatter_to_sequence_parallel", "reduce_scatter_embeddings")


@contextmanager
def _without_sequence_parallelism(module: Any) -> Iterator[None]:
    before: list[tuple[Any, str]] = []
    if module.config.sequence_parallel:
        owners = {id(owner): owner for part in module.modules() for owner in (part, getattr(part, "config", None))}
        # Weights keep their mark, by which their gradients are reduced.
        before = [
            (owner, name) for owner in owners.values() for name in _SPLIT_ALONG_SEQUENCE if getattr(owner, name, False)
        ]
    for owner, name in before:
        setattr(owner, name, False)
    try:
        yield
    finally:
        for owner, name in before:
            setattr(owner, name, True)
