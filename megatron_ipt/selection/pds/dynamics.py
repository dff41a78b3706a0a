"""How much each row of a training run helps: the costate recursion of PDS (arXiv:2410.07064).

The run is plain gradient descent, theta_{t+1} = theta_t - eta grad L_t(theta_t) with L_t = sum_n gamma_n l_n over the
rows of step t, and its objective is J(theta_1) + ... + J(theta_T). Backwards through the run,

    lambda_T = grad J(theta_T)
    lambda_t = lambda_{t+1} + grad J(theta_t) - eta Hessian(L_t)(theta_t) lambda_{t+1}

and the score of a row is eta sum_t lambda_{t+1} . grad l_n(theta_t): what the objective falls by per unit of weight
that the row gains in every step. This is exact for plain gradient descent only; momentum, clipping or a schedule of eta
would make it wrong, so there are none. Parameters are kept at every sqrt(T)-th step and the others computed again from
those, which takes memory for 2 sqrt(T) sets of parameters and a few more, and a second run forwards. With deterministic
kernels, the numbers do not depend on what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.selection.pds.data_parallel import DataParallel
from megatron_ipt.selection.pds.problem import Calculus
from megatron_ipt.selection.pds.vectors import Theta, detached, norm, plus, tensors, zeros_like

if TYPE_CHECKING:
    import torch

_SIMPLEX_TOLERANCE = 1e-6
"""By which the weights of a step may miss a sum of 1."""


@dataclass(frozen=True)
class Examples:
    """Examples that are computed at once: a micro-batch, on one rank.

    Attributes:
        batch: what the losses of the problem take.
        rows: which rows these are, int64 [examples]; from 0, the same on every rank.
        weights: gamma in this step, [examples]; None for equal weights over the step's examples on all ranks. Not used
            where examples are only scored.
    """

    batch: Any
    rows: torch.Tensor
    weights: torch.Tensor | None = None


Step = Sequence[Examples]
"""This rank's share of a step; may be empty if another rank's is not."""


@dataclass(frozen=True)
class Solution:
    """The scores of one run, the same on every rank; tensors on the CPU.

    Attributes:
        scores: fp64 [rows], in units of J per unit of weight; larger is better. Zero for rows that were never scored.
        times: in how many steps each row was scored, int64 [rows].
        targets: J after each step, fp64 [steps].
        costates: the norm of lambda_{t+1} for each step t, fp64 [steps]; it grows with the steps that are left, and
            explodes where the run is unstable.
        by_step: what each step adds to ``scores``, fp64 [steps, rows]; None unless asked for.
    """

    scores: torch.Tensor
    times: torch.Tensor
    targets: torch.Tensor
    costates: torch.Tensor
    by_step: torch.Tensor | None = None


def solve(
    calculus: Calculus,
    theta: Theta,
    steps: Sequence[Step],
    *,
    learning_rate: float,
    rows: int,
    scored: Step | None = None,
    score_every: int = 1,
    keep_every: int | None = None,
    by_step: bool = False,
    data_parallel: DataParallel | None = None,
) -> Solution:
    """Trains from ``theta``, and scores rows by the recursion above; every rank calls it with its share.

    Args:
        calculus: derivatives of the problem.
        theta: where the run starts, the same on every rank; not changed.
        steps: what each step trains on; each is read several times, forwards and backwards.
        learning_rate: eta.
        rows: number of all rows, on all ranks.
        scored: this rank's share of the examples that are scored; None for those that a step trains on.
        score_every: scores at step 0 and every so-many steps after it; the sum runs over these steps only.
        keep_every: how many steps lie between parameters that are kept; None for sqrt(T) rounded up, T to keep all.
        by_step: whether to return what each step adds; takes steps * rows * 8 bytes.
        data_parallel: the ranks that share the examples; None for all that torch.distributed knows.

    Raises:
        RecipeError: no steps, or a learning rate or interval that is not above zero.
        InputError: examples without or with wrong row numbers, a step without examples, weights that are not on the
            simplex.
        StageError: a loss, score or J is not finite.
    """
    for name, interval in (("score_every", score_every), ("keep_every", keep_every)):
        if interval is not None and interval < 1:
            raise RecipeError(f"{name} of the proxy run: found {interval}, must be at least 1")
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise RecipeError(f"learning rate of the proxy run: found {learning_rate}, must be a number above 0")
    if not len(steps):
        raise RecipeError("the proxy run has no steps: there is nothing to score rows by; train for at least one step")
    run = _Run(calculus, steps, learning_rate, rows, data_parallel or DataParallel())
    return run.solve(theta, scored, score_every, keep_every or math.isqrt(len(steps) - 1) + 1, by_step)


def average(solutions: Iterable[Solution]) -> Solution:
    """The mean over runs from several starting points, each with the same rows scored equally often.

    Raises:
        InputError: there is no run, or they scored different rows.
    """
    solutions = list(solutions)
    if not solutions:
        raise InputError("the mean of proxy runs: there are none; name at least one starting point")
    first = solutions[0]
    for number, solution in enumerate(solutions):
        if solution.times.shape != first.times.shape or not bool((solution.times == first.times).all()):
            raise InputError(
                f"the mean of proxy runs: run {number} did not score the rows that run 0 did, so a row's mean would"
                " depend on where it was scored; score the same examples in every run"
            )
    kept = [solution.by_step for solution in solutions if solution.by_step is not None]
    return Solution(
        scores=_mean([solution.scores for solution in solutions]),
        times=first.times,
        targets=_mean([solution.targets for solution in solutions]),
        costates=_mean([solution.costates for solution in solutions]),
        by_step=_mean(kept) if len(kept) == len(solutions) else None,
    )


def _mean(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total / len(parts)


class _Run:
    """A run forwards, and the recursion back through it."""

    def __init__(self, calculus: Calculus, steps: Sequence[Step], learning_rate: float, rows: int, ranks: DataParallel):
        self._calculus = calculus
        self._steps = steps
        self._learning_rate = learning_rate
        self._rows = rows
        self._ranks = ranks
        self._examples_of_step: list[int] = []
        """On all ranks."""

    def solve(self, theta: Theta, scored: Step | None, score_every: int, keep_every: int, by_step: bool) -> Solution:
        import torch

        length = len(self._steps)
        device = tensors(theta)[0].device
        table = torch.zeros(length if by_step else 1, self._rows, dtype=torch.float64, device=device)
        times = torch.zeros(self._rows, dtype=torch.int64, device=device)
        targets, costates = torch.zeros(2, length, dtype=torch.float64)
        if scored is not None:
            self._ranks.raise_together(self._wrong_rows(scored, "the scored examples"), InputError)
            if not sum(self._ranks.gather(_count(scored))):
                raise InputError("the scored examples: there are none on any rank")

        kept, segment, theta = self._forwards(detached(theta), keep_every)
        targets[-1], costate = self._target(theta, length)
        for step, theta in self._reversed(kept, segment, keep_every):
            costates[step] = norm(costate)
            slopes: list[torch.Tensor] = []
            examples: Step = ()
            if step % score_every == 0:
                examples = self._steps[step] if scored is None else scored
            curvature = None
            if step:
                curvature, slopes_of_step = self._curvature(step, theta, costate)
                slopes = slopes_of_step if scored is None else []
            if examples and not slopes:
                slopes = [self._calculus.slopes(theta, part.batch, costate) for part in examples]
            self._add(examples, slopes, step, table[step if by_step else 0], times)
            if curvature is not None:
                targets[step - 1], of_target = self._target(theta, step)
                costate = plus(plus(costate, 1.0, of_target), -self._learning_rate, curvature)
        self._ranks.sum(table)
        self._ranks.sum(times)
        table = table.cpu()
        return Solution(table.sum(0), times.cpu(), targets, costates, table if by_step else None)

    def _forwards(self, theta: Theta, keep_every: int) -> tuple[list[Theta], list[Theta], Theta]:
        """The parameters that are kept, those of the last segment, and those after the last step."""
        kept: list[Theta] = []
        segment: list[Theta] = []
        for step in range(len(self._steps)):
            if step % keep_every == 0:
                kept.append(theta)
                segment = []
            segment.append(theta)
            self._examples_of_step.append(self._check(step))
            theta = self._step(step, theta)
        return kept, segment, theta

    def _reversed(self, kept: list[Theta], segment: list[Theta], keep_every: int) -> Iterator[tuple[int, Theta]]:
        """Every step with the parameters that it starts from, the last first; empties both lists."""
        step = len(self._steps)
        while kept:
            start = kept.pop()
            if not segment:
                segment.append(start)
                for again in range(step - keep_every, step - 1):
                    segment.append(self._step(again, segment[-1]))
            while segment:
                step -= 1
                yield step, segment.pop()

    def _step(self, step: int, theta: Theta) -> Theta:
        """The parameters after ``step``."""
        total = zeros_like(theta)
        complaint = ""
        for part in self._steps[step]:
            losses, gradient = self._calculus.gradient(theta, part.batch, self._weights(part, step, theta))
            complaint = complaint or _not_finite(losses, part, f"step {step}: the loss")
            total = plus(total, 1.0, gradient)
        self._ranks.raise_together(complaint)
        return plus(theta, -self._learning_rate, self._ranks.sum(total))

    def _curvature(self, step: int, theta: Theta, costate: Theta) -> tuple[Theta, list[torch.Tensor]]:
        """The Hessian of the step's loss times the costate, and the slopes of this rank's examples."""
        total = zeros_like(theta)
        slopes = []
        for part in self._steps[step]:
            weights = self._weights(part, step, theta)
            of_part, curvature = self._calculus.slopes_and_curvature(theta, part.batch, weights, costate)
            slopes.append(of_part)
            total = plus(total, 1.0, curvature)
        return self._ranks.sum(total), slopes

    def _target(self, theta: Theta, step: int) -> tuple[torch.Tensor, Theta]:
        """J and its gradient after so many steps, summed over ranks."""
        value, gradient = self._calculus.target(theta)
        self._ranks.sum(value)
        if not bool(value.isfinite()):
            raise StageError(
                f"J after step {step - 1} is {float(value)}: the run diverged, or a target row has no finite loss;"
                " lower the learning rate of the proxy run or check the target set"
            )
        return value.cpu(), self._ranks.sum(gradient)

    def _add(
        self, examples: Step, slopes: Sequence[torch.Tensor], step: int, scores: torch.Tensor, times: torch.Tensor
    ) -> None:
        """Adds what a step says about ``examples``."""
        complaint = ""
        for part, of_part in zip(examples, slopes):
            complaint = complaint or _not_finite(of_part, part, f"step {step}: the score")
            rows = part.rows.to(scores.device)
            scores.index_add_(0, rows, self._learning_rate * of_part.to(scores))
            times.index_add_(0, rows, times.new_ones(len(rows)))
        self._ranks.raise_together(complaint)

    def _weights(self, part: Examples, step: int, theta: Theta) -> torch.Tensor:
        import torch

        place = tensors(theta)[0]
        if part.weights is None:
            share = 1 / self._examples_of_step[step]
            return torch.full((len(part.rows),), share, dtype=place.dtype, device=place.device)
        return part.weights.to(place.device)

    def _check(self, step: int) -> int:
        """How many examples ``step`` has on all ranks.

        Raises:
            InputError: it has none, or their weights are not on the simplex.
        """
        examples = self._steps[step]
        complaint = self._wrong_rows(examples, f"step {step}") or _wrong_weights(examples, f"step {step}")
        weighted = [part for part in examples if part.weights is not None]
        total = math.fsum(float(part.weights.double().sum()) for part in weighted if part.weights is not None)
        counts = self._ranks.gather((complaint, _count(examples), _count(weighted), total))
        for found, *_ in counts:
            if found:
                raise InputError(found)
        number = sum(count for _, count, _, _ in counts)
        with_weight = sum(count for _, _, count, _ in counts)
        if not number:
            raise InputError(f"step {step}: there are no examples on any rank; every step needs at least one")
        if with_weight not in (0, number):
            raise InputError(
                f"step {step}: {with_weight} of {number} examples have a weight; give one to all of them, or to none"
                " for equal weights"
            )
        total = math.fsum(part for _, _, _, part in counts)
        if with_weight and abs(total - 1) > _SIMPLEX_TOLERANCE:
            raise InputError(
                f"step {step}: the weights add up to {total:.8g}; divide them by that, they must add up to 1"
            )
        return number

    def _wrong_rows(self, examples: Step, where: str) -> str:
        """What is wrong with the row numbers; empty if nothing is."""
        for part in examples:
            outside = part.rows[(part.rows < 0) | (part.rows >= self._rows)]
            if len(outside):
                return f"{where}: row {int(outside[0])} is not among the {self._rows} rows of this run"
        return ""


def _wrong_weights(examples: Step, where: str) -> str:
    """What is wrong with the weights of single examples; empty if nothing is."""
    for part in examples:
        if part.weights is None:
            continue
        if part.weights.shape != part.rows.shape:
            return f"{where}: {len(part.weights)} weights for {len(part.rows)} examples"
        # Not ``< 0``: a weight that is no number is neither.
        wrong = (~(part.weights >= 0)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            row, weight = int(part.rows[place]), float(part.weights[place])
            return f"{where}: the weight of row {row} is {weight}; weights must be numbers from 0 on"
    return ""


def _not_finite(values: torch.Tensor, part: Examples, what: str) -> str:
    """A complaint about the first of ``values`` that is not finite; empty if all are."""
    if values.shape != part.rows.shape:
        return f"{what} of {len(part.rows)} examples has shape {tuple(values.shape)}; one value per example is needed"
    wrong = (~values.isfinite()).nonzero()
    if not len(wrong):
        return ""
    place = int(wrong[0])
    return (
        f"{what} of row {int(part.rows[place])} is {float(values[place])} ({len(wrong)} of {len(values)} in its"
        " micro-batch are not finite): the run diverged, or the row has nothing to predict; lower the learning rate of"
        " the proxy run or leave the row out"
    )


def _count(examples: Step) -> int:
    return sum(len(part.rows) for part in examples)
