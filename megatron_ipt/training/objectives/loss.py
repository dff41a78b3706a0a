"""The loss of a run: its terms, added up by weight, and the figures that they log.

Megatron-Core divides the gradients of a step by a count that is summed over micro-batches and ranks. If every term
counts the tokens of the loss mask, that is the count, and the sums of the terms are passed on as they are. If not, the
counts of all terms are summed over the global batch first; each sum is then scaled so that dividing by the number of
positions amounts to dividing by the term's own count.

The model is called for logits only if a term reads them. Next-token prediction alone is Megatron-Core's own path:
labels go in, token losses come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.utils import get_attr_wrapped_model

from megatron_ipt.errors import StageError
from megatron_ipt.training.objectives.next_token import NextToken
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
from megatron_ipt.training.objectives.terms import Term
from megatron_ipt.training.objectives.vocabulary import cross_entropy


class Figures(NamedTuple):
    """Of a step or a validation set.

    Attributes:
        loss: in training, the terms added up by weight; in validation, the next-token loss in nats.
        metrics: losses of the terms (``TERM/loss``) and their metrics (``TERM/METRIC``).
    """

    loss: float
    metrics: dict[str, float]


class Loss:
    """The terms of a run.

    Args:
        half_precision: the model's wrapper converts outputs to fp32 unless told not to, which logits need not be.
    """

    def __init__(self, terms: Sequence[Term], half_precision: bool = False):
        self._terms = tuple(terms)
        self._options = {"fp32_output": False} if half_precision else {}
        self._passes = {True: _TrainingPass(self._terms), False: _ValidationPass(self._terms)}

    def setup(self, setup: TrainingSetup) -> None:
        """Sets the objectives up; every rank calls it once."""
        for term in self._terms:
            term.objective.setup(setup)

    def micro_batches(
        self, step: Step, read: Callable[[], Iterator[Batch]], number: int, chunks: int
    ) -> tuple[list[Iterator[Batch]], int]:
        """What the chunks of the model on this rank run in a step: an iterator for each, and its length.

        Args:
            read: begins to read this rank's micro-batches.
            number: of micro-batches that ``read`` gives.
        """
        current = self._passes[step.training]
        if not current.looks_ahead:
            return [read() for _ in range(chunks)], number
        batches = list(read())
        for objective in current.before_step:
            batches = objective.before_step(step, batches)
        current.count(batches)
        number = len(batches)
        # Copies, so that what a chunk adds to a batch ends with its micro-batch.
        return [map(dict, batches) for _ in range(chunks)] if chunks > 1 else [_consuming(batches)], number

    def forward_step(self, training: bool) -> Callable[[Iterator[Batch], Any], tuple[torch.Tensor, Any]]:
        """The function that Megatron-Core's schedules call for each micro-batch.

        Its results are ``{"sums": tensor}``, to be added up over micro-batches and ranks for :meth:`figures`.
        """
        return partial(self._forward_step, self._passes[training])

    def zeros(self, training: bool) -> torch.Tensor:
        """The sums of a rank that computes no loss; fp64, [2 * figures]."""
        return torch.zeros(self._passes[training].width, dtype=torch.float64, device=torch.cuda.current_device())

    def figures(self, training: bool, sums: Sequence[float]) -> Figures:
        """Loss and metrics from the sums over all ranks."""
        return self._passes[training].figures(sums)

    def state_dict(self) -> dict[str, Any]:
        """State of the objectives that have one, by name of the term."""
        states = {term.name: dict(term.objective.state_dict()) for term in self._terms}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        for term in self._terms:
            if term.name in states:
                term.objective.load_state_dict(states[term.name])

    def _forward_step(self, current: _Pass, batches: Iterator[Batch], chunk: Any) -> tuple[torch.Tensor, Any]:
        batch = next(batches)
        for objective in current.before_forward:
            objective.before_forward(batch, get_attr_wrapped_model(chunk, "post_process"))
        # Rotary position embedding needs no position ids, and plain causal attention no mask.
        inputs = batch["tokens"], None, batch.get("attention_mask")
        if LOGITS in current.needs:
            return chunk(*inputs, **self._options), partial(current.from_logits, batch)
        return chunk(*inputs, labels=batch["labels"]), partial(current.from_token_losses, batch)


class _Pass:
    """The terms that take part in a forward pass, and what they need.

    Sums are pairs of sum and count: first those of the terms, then those of their metrics.
    """

    def __init__(self, terms: tuple[Term, ...]):
        self.terms = terms
        objectives = [term.objective for term in terms]
        self.needs = frozenset[str]().union(*(objective.needs for objective in objectives))
        self.before_step = [objective for objective in objectives if _overrides(objective, "before_step")]
        self.before_forward = [objective for objective in objectives if _overrides(objective, "before_forward")]
        self.looks_ahead = bool(self.before_step)
        self.counts_differ = any(_overrides(objective, "count") for objective in objectives)
        self.metrics = [f"{term.name}/{metric}" for term in terms for metric in term.objective.metrics]
        self.width = 2 * (len(terms) + len(self.metrics))

    def count(self, batches: list[Batch]) -> None:
        """Looks at the micro-batches of the step before the first of them runs."""

    def figures(self, sums: Sequence[float]) -> Figures:
        raise NotImplementedError

    def total(self, losses: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is differentiated, and the count to divide it by in the end; None for the tokens of the loss mask."""
        raise NotImplementedError

    def from_logits(self, batch: Batch, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        token_losses = cross_entropy(logits, batch["labels"]) if TOKEN_LOSSES in self.needs else None
        return self._losses(batch, ModelOutputs(token_losses, logits))

    def from_token_losses(self, batch: Batch, token_losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        return self._losses(batch, ModelOutputs(token_losses))

    def means(self, sums: Sequence[float]) -> list[float]:
        return [total / (count or 1.0) for total, count in zip(sums[::2], sums[1::2])]

    def _losses(self, batch: Batch, outputs: ModelOutputs) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """(loss, count, {"sums": [width]}), as Megatron-Core's schedules take it."""
        tokens = batch["loss_mask"].sum()
        losses: list[torch.Tensor] = []
        pairs: list[torch.Tensor] = []
        metrics: MetricSums = {}
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight != 0):
                loss, figures = _checked(term, term.objective.loss(outputs, batch))
            losses.append(loss)
            pairs += [loss, term.objective.count(batch) if self.counts_differ else tokens]
            metrics |= {f"{term.name}/{name}": pair for name, pair in figures.items()}
        for name in self.metrics:
            pairs += metrics.get(name) or [torch.zeros_like(tokens)] * 2
        total, count = self.total(losses, batch)
        sums = torch.stack([number.detach().double() for number in pairs])
        return total, (tokens if count is None else count).to(torch.int), {"sums": sums}


class _TrainingPass(_Pass):
    """All terms, added up by weight."""

    def __init__(self, terms: tuple[Term, ...]):
        super().__init__(terms)
        self.looks_ahead = self.looks_ahead or self.counts_differ
        self._factors: list[torch.Tensor] = []

    def count(self, batches: list[Batch]) -> None:
        """Sums up over the global batch what each term counts, and from that how to scale it."""
        if not self.counts_differ:
            return
        positions = torch.tensor(float(sum(batch["loss_mask"].numel() for batch in batches)))
        counts = [torch.stack([term.objective.count(batch).double() for batch in batches]).sum() for term in self.terms]
        sums = torch.stack([number.double().to(torch.cuda.current_device()) for number in (*counts, positions)])
        torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        self._factors = [(sums[-1] / torch.where(count == 0, 1.0, count)).float() for count in sums[:-1]]

    def total(self, losses: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        parts = []
        for index, (term, loss) in enumerate(zip(self.terms, losses)):
            if term.weight:
                part = loss if term.weight == 1 else term.weight * loss
                parts.append(part * self._factors[index] if self._factors else part)
        positions = torch.full_like(batch["loss_mask"][0, 0], batch["loss_mask"].numel()) if self._factors else None
        return sum(parts[1:], start=parts[0]), positions

    def figures(self, sums: Sequence[float]) -> Figures:
        means = self.means(sums)
        loss = sum(term.weight * mean for term, mean in zip(self.terms, means) if term.weight)
        losses = {f"{term.name}/loss": mean for term, mean in zip(self.terms, means) if len(self.terms) > 1}
        return Figures(loss, losses | dict(zip(self.metrics, means[len(self.terms) :])))


class _ValidationPass(_Pass):
    """The next-token loss, whatever is trained, and the terms that validation computes too."""

    def __init__(self, terms: tuple[Term, ...]):
        shown = tuple(term for term in terms if term.objective.in_validation)
        only_next_token = [type(term.objective) for term in terms] == [NextToken]
        super().__init__((Term("", 1.0, NextToken(None)), *(() if only_next_token else shown)))

    def total(self, losses: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        return losses[0], None

    def figures(self, sums: Sequence[float]) -> Figures:
        means = self.means(sums)
        losses = {f"{term.name}/loss": mean for term, mean in zip(self.terms[1:], means[1:])}
        metrics = dict(zip(self.metrics, means[len(self.terms) :]))
        counts = dict(zip(self.metrics, sums[2 * len(self.terms) + 1 :: 2]))
        # Some are only of what is drawn in training.
        return Figures(means[0], losses | {name: mean for name, mean in metrics.items() if counts[name]})


def _overrides(objective: Objective, method: str) -> bool:
    return getattr(type(objective), method) is not getattr(Objective, method)


def _consuming(batches: list[Batch]) -> Iterator[Batch]:
    """Lets go of every batch as it is handed out: what was added to it may be large."""
    while batches:
        yield batches.pop(0)


def _checked(term: Term, returned: Any) -> tuple[torch.Tensor, MetricSums]:
    """What an objective has returned.

    Raises:
        StageError: it does not keep to the interface.
    """
    method = f"training.objectives.{term.name}: loss() of {type(term.objective).__name__}"
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise StageError(
            f"{method} returned {type(returned).__name__}; expected a tuple of a sum and a dict of metrics"
        )
    loss, metrics = returned
    if not isinstance(loss, torch.Tensor) or loss.dim():
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise StageError(f"{method} returned {found} as the sum; expected a tensor with one number and no dimension")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise StageError(f"{method} returned a sum without gradients; compute it from the model's outputs")
    unknown = sorted(metrics.keys() - set(term.objective.metrics))
    if unknown:
        known = ", ".join(term.objective.metrics) or "none"
        raise StageError(f"{method} returned the metric {unknown[0]!r}, which is not declared; declared: {known}")
    return loss, metrics
