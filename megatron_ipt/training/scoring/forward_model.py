"""This rank's part of a checkpoint's model, for forward passes only: no optimizer, gradients or initial weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from megatron_ipt.training.checkpoints.checkpoint import load_model_weights
from megatron_ipt.training.checkpoints.model_file import ModelFile
from megatron_ipt.training.config import ParallelConfig, TrainingConfig
from megatron_ipt.training.model.build import build_model, transformer_config
from megatron_ipt.training.model.last_layer import output_logits, stopped_before_output
from megatron_ipt.training.rollouts.choice import Choice
from megatron_ipt.training.rollouts.decoder import Decoder
from megatron_ipt.training.rollouts.generate import Continuation, Limits, generate
from megatron_ipt.training.scoring.log_likelihood import log_probabilities
from megatron_ipt.training.scoring.texts import MicroBatch

_one_at_a_time = threading.Lock()
"""Megatron-Core's buffers and our CPU kernels' scratch memory are shared by all models of a process."""


class ForwardModel:
    """The chunk of the model that belongs on this rank. Needs Megatron-Core's groups to be started.

    Args:
        folder: of the checkpoint; its tensors are resharded to the layout of ``parallel``.
        precision: fp32 or bf16, whatever the checkpoint is in.

    Attributes:
        description: the checkpoint's ``model.json``.
        module: Megatron-Core's model.

    Raises:
        InputError: the folder is not a checkpoint of this package, or is damaged.
    """

    def __init__(self, folder: Path, precision: str, parallel: ParallelConfig):
        self.description = described = ModelFile.read(folder)
        config = transformer_config(described.shape, TrainingConfig(parallel=parallel), precision)
        config.perform_initialization = False
        config.variable_seq_lengths = True  # Pipeline stages tell each other the shape of every micro-batch.
        (self.module,) = build_model(
            described.shape, described.vocab_size, described.padded_vocab_size, config, seed=None
        )
        load_model_weights(self.module, folder)
        self.module.eval()
        if self.module.post_process:
            # Positions are gathered before the output layer, which sees only those that count.
            self.module.output_layer.sequence_parallel = False

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Next-token logits of a model that is on this rank as a whole, in the model's precision.

        Args:
            tokens: [batch, seq].

        Returns:
            [batch, seq, padded vocab].
        """
        with _one_at_a_time:
            output: torch.Tensor = self.module(tokens.to(torch.cuda.current_device()), None, None)
        return output

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], choice: Choice, limits: Limits
    ) -> list[Continuation]:
        """Continues ``prompts``, on all ranks that hold the model; see
        :func:`megatron_ipt.training.rollouts.generate.generate`."""
        with _one_at_a_time:
            return generate(Decoder(self.module, self.description.vocab_size), prompts, seeds, choice, limits)

    @torch.no_grad()
    def summed_log_probabilities(self, batches: Sequence[MicroBatch]) -> list[npt.NDArray[np.float64]] | None:
        """Runs ``batches`` through the pipeline, whose ranks all call this with the same ones.

        Returns:
            For each micro-batch the sum over the counted tokens of each text, [batch] in nats; None on ranks that do
            not hold the last stage.
        """
        rows, width = batches[0].tokens.shape
        with _one_at_a_time:
            results: list[npt.NDArray[np.float64]] = get_forward_backward_func()(
                forward_step_func=self._step,
                data_iterator=iter(batches),
                model=self.module,
                num_microbatches=len(batches),
                seq_length=width,
                micro_batch_size=rows,
                forward_only=True,
                collect_non_loss_data=True,
            )
        return results if self.module.post_process else None

    def _step(self, batches: Iterator[MicroBatch], module: Any) -> tuple[torch.Tensor, Any]:
        batch = next(batches)
        tokens = torch.from_numpy(batch.tokens).long().to(torch.cuda.current_device())
        with stopped_before_output(module):
            hidden = module(tokens, None, None)

        def sums(hidden: torch.Tensor, non_loss_data: bool) -> npt.NDArray[np.float64]:
            return self._sums(hidden, batch)

        return hidden, sums

    def _sums(self, hidden: torch.Tensor, batch: MicroBatch) -> npt.NDArray[np.float64]:
        """Sums [batch] from the last layer's output [seq, batch, hidden], of which this rank may hold a part of seq."""
        if self.module.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        counted = torch.from_numpy(batch.counted).to(hidden.device)
        rows = self.description.padded_vocab_size // parallel_state.get_tensor_model_parallel_world_size()
        found = log_probabilities(
            hidden.transpose(0, 1)[counted],
            torch.from_numpy(batch.labels[batch.counted]).long().to(hidden.device),
            partial(output_logits, self.module),
            rows,
            rows * parallel_state.get_tensor_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_group(),
        )
        # Summed in fp64 and in the order of the text, so that sums do not depend on what else is in the batch.
        ends = np.cumsum(batch.counted.sum(1))
        return np.add.reduceat(found.cpu().numpy().astype(np.float64), [0, *ends[:-1]])
