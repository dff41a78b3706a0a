"""DPKD as an objective: ``training.distillation.objective: dpkd``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.training.objectives.objective import LOGITS, Batch, MetricSums, ModelOutputs, Objective
from megatron_ipt.training.objectives.on_policy import LOGS, METRICS, RESPONSE_MASK, OnPolicy
from megatron_ipt.training.teacher.config import DistillationConfig

if TYPE_CHECKING:
    import torch

    from megatron_ipt.training.objectives.objective import Step, TrainingSetup
    from megatron_ipt.training.rollouts.choice import Choice


class PairDPKD(OnPolicy):
    """Whole responses: a mean over pairs of one drawn from the teacher and one from the student, to the same prompt.

    The teacher is not asked again while a round is trained on: its log-probabilities are those of the draw.
    """

    responses_per_unit = 2
    metrics = (*METRICS, "margin", "preferred")

    def choices(self) -> list[Choice]:
        from megatron_ipt.training.rollouts.choice import Choice

        temperature = self.options.on_policy.temperature
        return [Choice(temperature, 1.0), Choice(temperature, 0.0)]

    def count(self, batch: Batch) -> torch.Tensor:
        if RESPONSE_MASK not in batch:
            return batch["loss_mask"].new_zeros(())
        return batch[RESPONSE_MASK].any(-1).sum() / self.responses_per_unit

    def response_loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        from megatron_ipt.training.objectives.dpkd.loss import sequence_dpkd

        assert outputs.token_losses is not None
        own, mask = self.options.dpkd, batch[RESPONSE_MASK]
        log_q, log_p = -outputs.token_losses, batch[LOGS][..., 1]
        of_teacher, of_student = ((log_q[each::2], log_p[each::2], mask[each::2]) for each in range(2))
        losses, margins = sequence_dpkd(of_teacher, of_student, own.beta, own.length_norm)
        pairs = mask.new_tensor(float(len(losses)))
        return losses.sum(), {"margin": (margins.sum(), pairs), "preferred": ((margins > 0).float().sum(), pairs)}


class TokenDPKD(Objective):
    """Single positions of the data, as the authors' program has it: a mean over the tokens of the loss mask."""

    Options = DistillationConfig
    needs = frozenset({LOGITS})
    metrics = ("same_token",)

    def setup(self, setup: TrainingSetup) -> None:
        from megatron.core import parallel_state

        from megatron_ipt.training.teacher.model import Teacher

        self._teacher = Teacher(self.options.teacher, setup)
        self._group = parallel_state.get_tensor_model_parallel_group()

    def before_step(self, step: Step, batches: list[Batch]) -> list[Batch]:
        return self._teacher.before_step(batches)

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        from megatron_ipt.training.objectives.dpkd.loss import token_dpkd
        from megatron_ipt.training.teacher.model import HIDDEN

        assert outputs.logits is not None
        teacher, mask = self._teacher.logits(batch[HIDDEN]), batch["loss_mask"]
        losses, same = token_dpkd(
            outputs.logits, teacher, self._teacher.vocabulary, self._group, self.options.dpkd.beta
        )
        return (losses * mask).sum(), {"same_token": ((same * mask).sum(), mask.sum())}


def objective_of(options: Any) -> Objective:
    """The form that the recipe names."""
    return (PairDPKD if options.dpkd.form == "sequence" else TokenDPKD)(options)
