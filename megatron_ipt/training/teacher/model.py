"""The teacher on this rank: its part of the layers, and as a learner its output layer.

Before a step, all ranks run their parts of the teacher over the micro-batches of the step, without gradients. What is
sent to the ranks that compute the loss is the last hidden state, which is smaller than the logits by vocabulary /
hidden size; they have the rows of the teacher's output layer for their own columns of the student's vocabulary, so
that two models that are divided differently still meet column by column. Hidden states are kept for a whole step
(positions x hidden size), logits only for the micro-batch whose loss is computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from megatron_ipt.errors import RecipeError
from megatron_ipt.models.families import padded_vocabulary
from megatron_ipt.training.checkpoints.checkpoint import load_model_weights
from megatron_ipt.training.config import ParallelConfig, TrainingConfig
from megatron_ipt.training.model.build import build_model, transformer_config
from megatron_ipt.training.objectives.objective import Batch, TrainingSetup
from megatron_ipt.training.rollouts.decoder import Decoder
from megatron_ipt.training.teacher.config import TeacherConfig
from megatron_ipt.training.teacher.exchange import Message, exchange
from megatron_ipt.training.teacher.groups import create_groups
from megatron_ipt.training.teacher.hugging_face import load_hugging_face_weights
from megatron_ipt.training.teacher.layout import TeacherLayout, Turn
from megatron_ipt.training.teacher.source import TeacherSource, check_teacher

_READ = ("tokens", "attention_mask")
"""What the teacher reads of a batch."""
HIDDEN = "teacher_hidden"
"""Key in a batch of the teacher's last hidden state, [seq, batch, hidden]; on the ranks that compute the loss."""
SECONDS = "teacher_seconds"
"""Key in a batch of two numbers, whose sums over the micro-batches of a step are this rank's seconds with the teacher,
and 1."""


@dataclass(frozen=True)
class _Rows:
    """Rows ``first`` to ``last`` of the vocabulary."""

    first: int
    last: int

    def common(self, other: _Rows) -> _Rows | None:
        first, last = max(self.first, other.first), min(self.last, other.last)
        return _Rows(first, last) if first < last else None

    def counted_from(self, row: int) -> _Rows:
        return _Rows(self.first - row, self.last - row)


class Teacher:
    """This rank's part of a frozen model in a layout of its own. Every rank makes one, at the same time.

    Attributes:
        source: what its files say about it.
        vocabulary: entries that it and the student have in common.

    Raises:
        InputError: its files cannot be used.
        RecipeError: its layout does not fit the run.
    """

    def __init__(self, config: TeacherConfig, setup: TrainingSetup):
        self.source = source = TeacherSource.read(config)
        check_teacher(source, config, setup.config.seq_length())
        self._layout = TeacherLayout.of(
            setup.layout, config.tensor_model_parallel_size, config.pipeline_model_parallel_size
        )
        self._rank, self._device = torch.distributed.get_rank(), setup.device
        self._cluster = next(ranks for ranks in self._layout.clusters() if self._rank in ranks)
        self._groups, self._peers = create_groups(self._layout)
        self._seq_length, self._micro_batch_size = setup.config.seq_length(), setup.config.micro_batch_size
        self.vocabulary = min(source.vocab_size, setup.vocab_size)
        self._build(config, setup)
        width = setup.padded_vocab_size // setup.layout.tensor
        first = width * parallel_state.get_tensor_model_parallel_rank()
        self._common = min(max(self.vocabulary - first, 0), width)
        self._output = self._take_output_layer(width)

    @torch.no_grad()
    def before_step(self, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches of a step with ``HIDDEN``, where the loss is computed, and ``SECONDS``."""
        began = time.monotonic()
        turns = self._layout.turns(self._cluster, len(batches))
        inputs = self._inputs(batches)
        mine = [turn for turn in turns if self._rank in turn.copy]
        hidden = self._run([inputs[turn.cell][turn.micro_batch] for turn in mine]) if mine else []
        of_turn = dict(zip(mine, hidden))
        received = self._deliver(turns, of_turn)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = torch.tensor([time.monotonic() - began, 1.0]) / len(batches)
        return [
            batch | {SECONDS: seconds} | ({HIDDEN: received[index]} if received else {})
            for index, batch in enumerate(batches)
        ]

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The teacher's logits of the columns that this rank has of the student's, [batch, seq, columns]; those of
        columns that the models do not have in common are minus infinity.

        Args:
            hidden: what :meth:`before_step` has added to the batch, [seq, batch, hidden].
        """
        assert self._output is not None
        found = torch.nn.functional.linear(hidden.transpose(0, 1), self._output)
        found[..., self._common :] = -torch.inf
        return found

    def decoder(self) -> Decoder:
        """The teacher as it reads a few tokens at a time, for text that both models write together.

        Raises:
            RecipeError: it is divided into other parts than the student, and not whole on every rank.
        """
        own, student = (self._layout.tensor, self._layout.pipeline), self._layout.student
        if own not in ((1, 1), (student.tensor, student.pipeline)):
            raise RecipeError(
                f"training.distillation.teacher: tensor_model_parallel_size={own[0]}, pipeline_model_parallel_size="
                f"{own[1]}: to write text together with the student, the teacher must have its sizes "
                f"({student.tensor} and {student.pipeline}) or be whole on every rank (1 and 1)"
            )
        return Decoder(self._module, self.vocabulary, self._logits_of_rows, self._schedule, own[1])

    def _logits_of_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits(hidden.unsqueeze(0)).squeeze(1)

    def _build(self, config: TeacherConfig, setup: TrainingSetup) -> None:
        source = self.source
        precision = config.precision
        if precision == "auto":
            precision = "fp32" if setup.precision == "fp32" else "bf16"
        parallel = ParallelConfig(
            tensor_model_parallel_size=self._layout.tensor,
            pipeline_model_parallel_size=self._layout.pipeline,
            context_parallel_size=setup.layout.context,
        )
        model_config = transformer_config(source.shape, TrainingConfig(parallel=parallel), precision)
        model_config.perform_initialization = False
        padded = source.padded_vocab_size or padded_vocabulary(source.vocab_size, self._layout.tensor)
        attention = "torch" if setup.config.data.reset_attention_mask else "auto"
        (self._module,) = build_model(
            source.shape, source.vocab_size, padded, model_config, None, attention, self._groups
        )
        self._padded = padded
        if source.is_checkpoint:
            load_model_weights(self._module, source.folder, self._groups)
        else:
            load_hugging_face_weights(
                self._module, self._groups, source.folder, source.shape, source.vocab_size, padded
            )
        self._module.eval().requires_grad_(False)
        self._schedule = partial(
            get_forward_backward_func(pp_size=self._layout.pipeline, vp_size=None),
            p2p_communicator=P2PCommunicator(self._groups.pp, model_config),
            pg_collection=self._groups,
        )

    def _take_output_layer(self, width: int) -> torch.Tensor | None:
        """Moves the output layer to where the loss is computed: each of those ranks gets the rows of its columns,
        [width, hidden]; None on others."""
        module = self._module
        weight = None
        if module.post_process:
            tied = module.share_embeddings_and_output_weights
            weight = module.shared_embedding_or_output_weight() if tied else module.output_layer.weight
            weight = weight.detach()
        learners = [rank for turn in self._first_turns() for rank in turn.learners]
        is_learner = self._rank in learners
        output = None
        if is_learner:
            # Rows that the teacher does not have stay 0; nobody looks at their logits.
            dtype = module.config.params_dtype
            output = torch.zeros(width, self.source.shape.hidden_size, dtype=dtype, device=self._device)
        messages = [message for turn in self._first_turns() for message in self._rows_to_send(turn, width)]
        exchange(
            [
                Message(
                    sender, receiver,
                    None if weight is None or sender != self._rank else weight[own.first : own.last],
                    None if output is None or receiver != self._rank else output[to.first : to.last],
                )
                for sender, receiver, own, to in messages
            ]
        )  # fmt: skip
        # From now on it returns the last hidden state.
        if module.post_process:
            module.post_process = False
            module.output_layer = None
        return output

    def _first_turns(self) -> list[Turn]:
        """One for each cell of the cluster."""
        return self._layout.turns(self._cluster, 1)

    def _rows_to_send(self, turn: Turn, width: int) -> Iterator[tuple[int, int, _Rows, _Rows]]:
        """(sender, receiver, rows of the sender's part, rows of the receiver's part) for the learners of a cell.

        Args:
            width: rows of each learner's part.
        """
        senders = turn.copy[-self._layout.tensor :]
        share = self._padded // len(senders)
        for place, learner in enumerate(turn.learners):
            wanted = _Rows(place * width, min((place + 1) * width, self.vocabulary))
            for index, sender in enumerate(senders):
                common = wanted.common(_Rows(index * share, (index + 1) * share))
                if common is not None:
                    yield sender, learner, common.counted_from(index * share), common.counted_from(place * width)

    def _inputs(self, batches: Sequence[Batch]) -> list[list[Batch]]:
        """What the teacher reads of every micro-batch, for each cell of the cluster."""
        own = [{name: batch[name] for name in _READ if name in batch} for batch in batches]
        if self._layout.cells == 1:
            return [own]
        cells: list[list[Batch]] = [[{} for _ in own] for _ in range(self._layout.cells)]
        for index, batch in enumerate(own):
            for name, tensor in batch.items():
                # Not every backend exchanges booleans.
                sent = tensor.contiguous().view(torch.uint8) if tensor.dtype is torch.bool else tensor.contiguous()
                gathered = [torch.empty_like(sent) for _ in cells]
                torch.distributed.all_gather(gathered, sent, group=self._peers)
                for cell, found in zip(cells, gathered):
                    cell[index][name] = found.view(tensor.dtype)
        return cells

    def _run(self, inputs: Sequence[Batch]) -> list[torch.Tensor]:
        """Last hidden states of the micro-batches, [seq, batch, hidden]; empty but on the teacher's last stage."""
        results: list[torch.Tensor] = self._schedule(
            forward_step_func=_forward_step,
            data_iterator=iter(inputs),
            model=self._module,
            num_microbatches=len(inputs),
            seq_length=self._seq_length,
            micro_batch_size=self._micro_batch_size,
            forward_only=True,
            collect_non_loss_data=True,
        )
        return results

    def _deliver(self, turns: Sequence[Turn], of_turn: dict[Turn, torch.Tensor]) -> list[torch.Tensor]:
        """Sends hidden states to those that compute the loss; this rank's, by micro-batch."""
        shape = (
            self._seq_length // self._layout.student.context, self._micro_batch_size, self.source.shape.hidden_size
        )  # fmt: skip
        messages, received = [], []
        for turn in turns:
            own = of_turn.get(turn)
            for sender, learner in zip(turn.senders, turn.learners):
                to = None
                if learner == self._rank:
                    dtype = self._module.config.params_dtype
                    to = own if own is not None else torch.empty(shape, dtype=dtype, device=self._device)
                    received.append(to)
                if sender != learner:
                    messages.append(Message(sender, learner, own if sender == self._rank else None, to))
        exchange(messages)
        return received


def _forward_step(batches: Iterator[Batch], module: Any) -> tuple[torch.Tensor, Any]:
    batch = next(batches)
    hidden = module(batch["tokens"], None, batch.get("attention_mask"))
    return hidden, lambda hidden, non_loss_data: hidden
