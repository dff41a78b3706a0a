"""Base of objectives that train on responses drawn in rounds (MiniLLM, DPKD).

At the first step of a round every copy of the model answers its share of the round's prompts, and all ranks then hold
all responses. Each step adds micro-batches of them to those of the data, which other terms learn from; neither sees the
tokens of the other. Responses are part of the checkpoint, and those of a round that had not begun are drawn again from
the same random numbers, so a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.models import divisibility
from megatron_ipt.progress import counted
from megatron_ipt.training.objectives.distillation import COMPARED, TEACHER_LOSS, TEACHER_SECONDS
from megatron_ipt.training.objectives.objective import (
    LOGITS,
    TOKEN_LOSSES,
    Batch,
    MetricSums,
    ModelOutputs,
    Objective,
    Step,
    TrainingSetup,
)
from megatron_ipt.training.teacher.config import DistillationConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from megatron_ipt.training.objectives.minillm.paper import Sampled
    from megatron_ipt.training.rollouts.choice import Choice
    from megatron_ipt.training.rollouts.prompts import Prompt
    from megatron_ipt.training.rollouts.rounds import Responses

logger = logging.getLogger(__name__)

RESPONSE_MASK = "response_mask"
"""Key in a batch: 1 where the label is a token of the response, [batch, seq]; missing in batches of the data."""
LOGS = "response_logs"
"""Key in a batch: log-probabilities of the labels when they were drawn, [batch, seq, 3]."""
_FIGURES = "response_figures"
_SECONDS = "rollout_seconds"
METRICS = (*COMPARED, TEACHER_LOSS, TEACHER_SECONDS, "response_tokens", "truncated", "repetition", _SECONDS)
"""What is logged of any distillation, at the tokens of responses (in validation, of the data); tokens of a response;
share of responses that no end token ended; share of 4-grams that occur before in them; seconds of drawing in a step."""


class OnPolicy(Objective, ABC):
    """See the module. In validation it is the reverse KL of the tokens of the data.

    Attributes:
        responses_per_unit: responses that belong together: in the same micro-batch, one after the other.
    """

    Options = DistillationConfig
    needs = frozenset({TOKEN_LOSSES, LOGITS})
    responses_per_unit = 1

    def setup(self, setup: TrainingSetup) -> None:
        from megatron.core import parallel_state

        from megatron_ipt.training.rollouts.decoder import Decoder
        from megatron_ipt.training.rollouts.generate import Limits
        from megatron_ipt.training.rollouts.prompts import Prompts
        from megatron_ipt.training.teacher.model import Teacher

        own = self.options.on_policy
        self._setup, self._own = setup, own
        self._rounds = self._make_rounds()
        self._teacher = Teacher(self.options.teacher, setup)
        self._group = parallel_state.get_tensor_model_parallel_group()
        self._student = Decoder(setup.chunks[0], self._teacher.vocabulary)
        positions = min(setup.config.seq_length(), setup.shape.max_position_embeddings)
        longest = positions - own.max_new_tokens
        data = self._prompt_data()
        self._prompts = Prompts(
            data, setup.config.seq_length(), min(longest, own.max_prompt_tokens or longest), setup.seed
        )
        logger.info(
            "distillation: %s to continue, %d left out as too long", counted(len(self._prompts), "prompt"),
            self._prompts.too_long,
        )  # fmt: skip
        # Of the prompts: in a chat, other tokens end a message than end a document.
        self._limits = Limits(own.max_new_tokens, positions, (data.eod_id,), own.generation_batch_size)
        self._responses: Responses | None = None
        # Beside nothing else, the micro-batches of the data need not run.
        self._data_is_used = any(term.weight for term in setup.config.objectives.values()) or self.options.alpha < 1

    def before_step(self, step: Step, batches: list[Batch]) -> list[Batch]:
        if not step.training:
            return self._teacher.before_step(batches)
        began = time.monotonic()
        place = self._rounds.place(step.number)
        if self._responses is None or self._responses.round != place.round:
            with self._setup.whole_weights():
                self._responses = self._draw(place.round)
        seconds = time.monotonic() - began
        units = self._rounds.units_of(place, self._setup.seed)
        made = self._micro_batches(self._responses, units)
        made[0][_SECONDS] = made[0][RESPONSE_MASK].new_tensor(seconds)
        return [*(batches if self._data_is_used else ()), *self._teacher.before_step(made)]

    def count(self, batch: Batch) -> torch.Tensor:
        from megatron_ipt.training.teacher.model import HIDDEN

        if RESPONSE_MASK in batch:
            return self.count_responses(batch[RESPONSE_MASK])
        return batch["loss_mask"].sum() if HIDDEN in batch else batch["loss_mask"].new_zeros(())

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        import torch

        from megatron_ipt.training.objectives.divergence import divergence_with_comparison
        from megatron_ipt.training.objectives.divergence.kinds import REVERSE_KL
        from megatron_ipt.training.objectives.minillm.paper import Sampled
        from megatron_ipt.training.objectives.vocabulary import cross_entropy
        from megatron_ipt.training.teacher.model import HIDDEN, SECONDS

        assert outputs.token_losses is not None and outputs.logits is not None
        mask = batch.get(RESPONSE_MASK, batch["loss_mask"])
        counted = mask > 0
        if HIDDEN not in batch or not counted.any():
            return (outputs.token_losses * 0.0).sum(), {}
        teacher = self._teacher.logits(batch[HIDDEN].transpose(0, 1)[counted].unsqueeze(1))
        single, compared = divergence_with_comparison(
            REVERSE_KL, outputs.logits[counted], teacher.squeeze(0), self._teacher.vocabulary, self._group
        )
        of_labels = cross_entropy(teacher, batch["labels"][counted].unsqueeze(0)).squeeze(0)
        tokens, one = mask.sum(), mask.new_ones(())
        metrics: MetricSums = {name: (getattr(compared, field).sum(), tokens) for name, field in COMPARED.items()}
        seconds, ranks = batch[SECONDS].to(mask)
        metrics |= {TEACHER_LOSS: (of_labels.sum(), tokens), TEACHER_SECONDS: (seconds, ranks)}
        if RESPONSE_MASK not in batch:
            return single.sum(), metrics
        figures = batch[_FIGURES]
        for column, name in enumerate(("response_tokens", "truncated", "repetition")):
            metrics[name] = figures[:, column].sum(), one * len(figures)
        if _SECONDS in batch:
            metrics[_SECONDS] = batch[_SECONDS], one
        nothing = torch.zeros_like(mask)
        sampled = Sampled(
            -outputs.token_losses, nothing.masked_scatter(counted, -of_labels), batch[LOGS][..., 2],
            nothing.masked_scatter(counted, single), mask,
        )  # fmt: skip
        loss, own = self.response_loss(sampled, batch)
        return loss, metrics | own

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self._responses is None else self._responses.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        from megatron_ipt.training.rollouts.rounds import Responses

        self._responses = Responses.from_state_dict(state)

    @abstractmethod
    def count_responses(self, mask: torch.Tensor) -> torch.Tensor:
        """How many items :meth:`response_loss` sums over, from the mask [batch, seq] of the responses."""

    @abstractmethod
    def response_loss(self, sampled: Sampled, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        """The sum over a micro-batch of responses, and the metrics of the objective."""

    @abstractmethod
    def choices(self) -> list[Choice]:
        """How each of the responses to a prompt is drawn."""

    def draws_with_teacher(self) -> bool:
        """Whether the teacher reads responses while they are drawn: to write them, or to say how likely they are."""
        return any(choice.teacher_share for choice in self.choices())

    def extras(self, rows: npt.NDArray[np.int64], responses: Responses) -> dict[str, npt.NDArray[np.float32]]:
        """More tensors of a step, [rows, seq length], from all of the step's rows."""
        return {}

    def _make_rounds(self) -> Any:
        from megatron_ipt.training.rollouts.rounds import Rounds

        config, own = self._setup.config, self._own
        batch = own.batch_size or config.global_batch_size
        at_once = config.micro_batch_size * self._setup.layout.data
        if batch % at_once:
            raise RecipeError(
                f"training.distillation.on_policy.batch_size: {batch} is not divisible by micro_batch_size="
                f"{config.micro_batch_size} x {self._setup.layout.data} data-parallel ranks; nearest that are: "
                f"{divisibility.multiples(batch, at_once)}"
            )
        return Rounds(own.rollouts, own.inner_epochs, batch // self.responses_per_unit)

    def _prompt_data(self) -> Any:
        from megatron_ipt.training.data.batches import TokenData

        if self._own.prompts is None:
            return self._setup.tokens
        data = TokenData.read(Path(self._own.prompts))
        if data.vocab_size != self._setup.tokens.vocab_size:
            raise RecipeError(
                f"training.distillation.on_policy.prompts: {self._own.prompts} was tokenized with a vocabulary of "
                f"{data.vocab_size}, the training data with one of {self._setup.tokens.vocab_size}; use one tokenizer"
            )
        return data

    def _draw(self, number: int) -> Responses:
        """The responses of round ``number``, on all ranks: those to all prompts by the first of the choices, then those
        by the second."""
        import torch
        from megatron.core import parallel_state

        from megatron_ipt.seeding import derive
        from megatron_ipt.training.rollouts.generate import generate
        from megatron_ipt.training.rollouts.rounds import Responses

        total, ranks = self._own.rollouts, self._setup.layout.data
        mine = range(parallel_state.get_data_parallel_rank(), total, ranks)
        prompts: list[Prompt] = self._prompts.at([number * total + index for index in mine])
        choices = self.choices()
        teacher = self._teacher.decoder() if self.draws_with_teacher() else None
        drawn = []
        for kind, choice in enumerate(choices):
            seeds = [derive(self._setup.seed, "response", kind, prompt.name) for prompt in prompts]
            ids = [prompt.ids for prompt in prompts]
            texts = generate(self._student, ids, seeds, choice, self._limits, teacher)
            drawn += [(kind * total + index, *found) for index, found in zip(mine, zip(ids, texts))]
        gathered: list[Any] = [drawn]
        if ranks > 1:
            gathered = [None] * ranks
            torch.distributed.all_gather_object(gathered, drawn, group=parallel_state.get_data_parallel_group())
        every = sorted((one for part in gathered for one in part), key=lambda one: one[0])
        return Responses.of(number, [prompt for _, prompt, _ in every], [text for *_, text in every])

    def _micro_batches(self, responses: Responses, units: npt.NDArray[np.int64]) -> list[Batch]:
        """This rank's micro-batches of a step."""
        import numpy as np
        import torch
        from megatron.core import parallel_state

        setup, size = self._setup, self._setup.config.micro_batch_size
        rows = (units[:, None] + self._own.rollouts * np.arange(self.responses_per_unit)).reshape(-1)
        extras = self.extras(rows, responses)
        made = []
        for first in range(parallel_state.get_data_parallel_rank() * size, len(rows), size * setup.layout.data):
            part = rows[first : first + size]
            values = responses.rows(part, setup.config.seq_length())
            figures = [(responses.lengths[row], not responses.finished[row], responses.repetition(row)) for row in part]
            batch = {name: torch.from_numpy(values[name]) for name in ("tokens", "labels")}
            batch["loss_mask"] = torch.zeros(values["response_mask"].shape)
            batch[RESPONSE_MASK] = torch.from_numpy(values["response_mask"])
            batch[LOGS] = torch.from_numpy(values["logs"])
            batch[_FIGURES] = torch.tensor(figures, dtype=torch.float32)
            batch |= {name: torch.from_numpy(value[first : first + size]) for name, value in extras.items()}
            made.append({name: tensor.to(setup.device) for name, tensor in batch.items()})
        return made
