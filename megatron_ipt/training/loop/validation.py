"""Loss on held-out data, separately for each validation set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state

from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.data.batches import Batches, TokenData
from megatron_ipt.training.data.sample_index import DatasetBuilder
from megatron_ipt.training.objectives.loss import Figures, Loss
from megatron_ipt.training.ranks.layout import Layout


class Validation:
    """The validation sets of a run; a set of fewer than two tokens has nothing to predict and is skipped.

    Args:
        forward: runs the model over ``(batches, position, micro_batches)`` without gradients; returns the sums of this
            rank, see :class:`~megatron_ipt.training.objectives.loss.Loss`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        tokens: TokenData,
        builder: DatasetBuilder,
        layout: Layout,
        objectives: Loss,
        forward: Callable[[Batches, int, int], torch.Tensor],
    ):
        self._config = config
        self._layout = layout
        self._objectives = objectives
        self._forward = forward
        self._sets: dict[str, tuple[int, Batches]] = {}
        if config.validation.eval_iters == 0:
            return
        rank, context_rank = parallel_state.get_data_parallel_rank(), parallel_state.get_context_parallel_rank()
        for source in tokens.valid:
            if source.tokens > 1:
                dataset = builder.valid(source)
                samples = len(dataset)
                batches = Batches(dataset, config.micro_batch_size, layout, rank, context_rank, end=samples)
                self._sets[source.name] = samples, batches

    @torch.no_grad()
    def figures(self, chunks: list[Any]) -> dict[str, Figures]:
        """Mean loss per token, in nats, and metrics of the objectives, by set."""
        config = self._config
        samples_at_once = config.micro_batch_size * self._layout.data
        found = {}
        for chunk in chunks:
            chunk.eval()
        for name, (samples, batches) in self._sets.items():
            limit = samples
            if config.validation.eval_iters is not None:
                limit = min(samples, config.validation.eval_iters * config.global_batch_size)
            sums = self._objectives.zeros(training=False)
            for first in range(0, limit, config.global_batch_size):
                left = math.ceil(min(config.global_batch_size, limit - first) / samples_at_once)
                if config.parallel.virtual_pipeline_model_parallel_size:
                    left = self._layout.micro_batches
                sums += self._forward(batches, first, left)
            torch.distributed.all_reduce(sums)
            found[name] = self._objectives.figures(False, sums.tolist())
        for chunk in chunks:
            chunk.train()
        return found
