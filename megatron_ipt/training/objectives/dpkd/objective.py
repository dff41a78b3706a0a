"""DPKD as an objective: ``training.distillation.objective: dpkd``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.training.objectives.distillation import Distillation
from megatron_ipt.training.objectives.objective import Batch, MetricSums, Objective
from megatron_ipt.training.objectives.on_policy import METRICS, OnPolicy

if TYPE_CHECKING:
    import torch

    from megatron_ipt.training.objectives.divergence import Comparison
    from megatron_ipt.training.objectives.minillm.paper import Sampled
    from megatron_ipt.training.rollouts.choice import Choice


class PairDPKD(OnPolicy):
    """Whole responses: a mean over pairs of one drawn from the teacher and one from the student, to the same prompt."""

    responses_per_unit = 2
    metrics = (*METRICS, "margin", "preferred")

    def choices(self) -> list[Choice]:
        from megatron_ipt.training.rollouts.choice import Choice

        temperature = self.options.on_policy.temperature
        return [Choice(temperature, 1.0), Choice(temperature, 0.0)]

    def count_responses(self, mask: torch.Tensor) -> torch.Tensor:
        return mask.any(-1).sum() / self.responses_per_unit

    def response_loss(self, sampled: Sampled, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        from megatron_ipt.training.objectives.dpkd.loss import sequence_dpkd

        own = self.options.dpkd
        log_q, log_p, mask = sampled.log_q, sampled.log_p, sampled.mask
        of_teacher, of_student = ((log_q[each::2], log_p[each::2], mask[each::2]) for each in range(2))
        losses, margins = sequence_dpkd(of_teacher, of_student, own.beta, own.length_norm)
        pairs = mask.new_tensor(float(len(losses)))
        return losses.sum(), {"margin": (margins.sum(), pairs), "preferred": ((margins > 0).float().sum(), pairs)}


class TokenDPKD(Distillation):
    """Single positions of the data, as the authors' program has it: a mean over the tokens of the loss mask."""

    def values(self, logits: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, Comparison]:
        from megatron_ipt.training.objectives.divergence import compare
        from megatron_ipt.training.objectives.dpkd.loss import token_dpkd

        vocabulary, group = self._teacher.vocabulary, self._group
        losses, _ = token_dpkd(logits, teacher, vocabulary, group, self.options.dpkd.beta)
        return losses, compare(logits, teacher, vocabulary, group)


def objective_of(options: Any) -> Objective:
    """The form that the recipe names."""
    return (PairDPKD if options.dpkd.form == "sequence" else TokenDPKD)(options)
