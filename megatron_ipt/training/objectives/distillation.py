"""Distillation on the tokens of the data: a divergence between the teacher's and the student's next-token distribution.

Logged whatever is trained: the divergence, both KL divergences and both entropies at temperature 1, how often both find
the same token most probable, the teacher's own next-token loss, and the seconds that ranks spend with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron_ipt.training.objectives.objective import (
    LOGITS,
    Batch,
    MetricSums,
    ModelOutputs,
    Objective,
    Step,
    TrainingSetup,
)
from megatron_ipt.training.teacher.config import DistillationConfig

if TYPE_CHECKING:
    import torch

    from megatron_ipt.training.objectives.divergence import Comparison

COMPARED = {
    "forward_kl": "forward_kl",
    "reverse_kl": "reverse_kl",
    "student_entropy": "student_entropy",
    "teacher_entropy": "teacher_entropy",
    "top1_agreement": "same_top",
}
"""Metric, and the field of the comparison that it is the mean of."""
OWN_METRICS = ("own_responses", "response_tokens", "truncated", "repetition", "rollout_seconds")
"""Of the student's own responses in place of those of the data: their share of the rows; tokens; share of those that no
end token ended; share of 4-grams that occur before in the response; seconds of a step in which they were drawn."""
TEACHER_LOSS, TEACHER_SECONDS = "teacher_loss", "teacher_seconds"


class Distillation(Objective):
    """Sum of the divergence over the tokens of the loss mask, in nats."""

    Options = DistillationConfig
    needs = frozenset({LOGITS})
    metrics = (*COMPARED, TEACHER_LOSS, TEACHER_SECONDS)

    def __init__(self, options: DistillationConfig):
        super().__init__(options)
        if options.on_policy.fraction:
            self.metrics = (*self.metrics, *OWN_METRICS)

    def setup(self, setup: TrainingSetup) -> None:
        from megatron.core import parallel_state

        from megatron_ipt.training.rollouts.rows import OwnResponses
        from megatron_ipt.training.teacher.model import Teacher

        options: DistillationConfig = self.options
        self._teacher = Teacher(options.teacher, setup)
        self._group = parallel_state.get_tensor_model_parallel_group()
        self._own = None
        if options.on_policy.fraction:
            self._own = OwnResponses(options.on_policy, setup, self._teacher.vocabulary)

    def before_step(self, step: Step, batches: list[Batch]) -> list[Batch]:
        if self._own is not None:
            batches = self._own.replace(step, batches)
        return self._teacher.before_step(batches)

    def values(self, logits: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, Comparison]:
        """What is trained at each position, [batch, seq] with gradient, and how the models compare there."""
        from megatron_ipt.training.objectives.divergence import divergence_with_comparison
        from megatron_ipt.training.objectives.divergence.kinds import kind_named

        options: DistillationConfig = self.options
        kind = kind_named(options.objective, options.beta, options.skew)
        return divergence_with_comparison(
            kind, logits, teacher, self._teacher.vocabulary, self._group, options.temperature
        )

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        from megatron_ipt.training.objectives.vocabulary import cross_entropy
        from megatron_ipt.training.rollouts.rows import OWN, own_figures
        from megatron_ipt.training.teacher.model import HIDDEN, SECONDS

        assert outputs.logits is not None
        mask = batch["loss_mask"]
        teacher = self._teacher.logits(batch[HIDDEN])
        values, compared = self.values(outputs.logits, teacher)

        def mean(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (numbers * mask).sum(), mask.sum()

        metrics = {name: mean(getattr(compared, field)) for name, field in COMPARED.items()}
        metrics[TEACHER_LOSS] = mean(cross_entropy(teacher, batch["labels"]))
        seconds, one = batch[SECONDS].to(mask)
        metrics[TEACHER_SECONDS] = seconds, one
        if OWN in batch:
            metrics |= own_figures(batch)
        return (values * mask).sum(), metrics
