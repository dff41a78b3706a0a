"""Policies: the area under the desired loss, its gradient by the costate recursion, and the search for the best one.

With theta_{t+1} = theta_t - eta sum_n gamma[t, n] grad l_n(theta_t), the area is A = (1/T) sum_{t=0..T} L(theta_t) for
the desired loss L, and -dA/dgamma[t, n] = (eta / T) lambda_{t+1} . grad l_n(theta_t), with the costate lambda of
:mod:`megatron_ipt.selection.pds.dynamics`.

The search is projected gradient descent. A step that lowers the area by less than its length promises is taken back and
halved; any other is followed by a somewhat longer one. At an optimum, all examples of a step that have weight gain
equally, and no other gains more. How far a policy is from that is one number, the sum over t of max_n g[t, n] -
sum_n gamma[t, n] g[t, n] with g = -dA/dgamma: never negative, zero exactly at such points, and for a convex problem no
less than what is left to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.selection.pds.dynamics import Examples, Step, solve
from megatron_ipt.selection.pds.problem import Calculus
from megatron_ipt.selection.pds.simplex import project
from megatron_ipt.selection.pds.vectors import Theta, detached, plus, zeros_like

if TYPE_CHECKING:
    import torch

_LONGER, _SHORTER = 1.25, 0.5
_CANCELLATION = 1e-9
"""Falls of the area, relative, below which a difference of two areas says little; the mean of the gains at both ends
says more there."""


@dataclass(frozen=True)
class Model:
    """What is trained, on what, and what it is to become good at.

    Attributes:
        calculus: derivatives; its target is the desired loss, a mean over examples.
        test: the same loss on examples that the search does not see.
        start: parameters before the first step.
        batches: all training examples, as the calculus takes them, in micro-batches.
        sizes: examples of each of ``batches``.
        learning_rate: eta.
        vocabulary: size of what a loss is over, for the compression ratio; 2 for two classes.
        name: for titles.
    """

    calculus: Calculus
    test: Callable[[Theta], torch.Tensor]
    start: Theta
    batches: Sequence[Any]
    sizes: Sequence[int]
    learning_rate: float
    vocabulary: int
    name: str

    @property
    def examples(self) -> int:
        return sum(self.sizes)


class _Steps(Sequence[Step]):
    """The steps of a policy as the solver reads them, made when they are asked for."""

    def __init__(self, model: Model, weights: torch.Tensor):
        import torch

        self._model = model
        self._weights = weights
        self._rows = torch.arange(model.examples).split(list(model.sizes))

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, step: Any) -> Any:
        return [
            Examples(batch, rows, self._weights[step, rows]) for batch, rows in zip(self._model.batches, self._rows)
        ]


@dataclass(frozen=True)
class Gradient:
    """Of a policy.

    Attributes:
        area: A.
        desired: L after 0, 1, ... T steps, fp64 [steps + 1].
        gains: -dA/dgamma, fp64 [steps, examples].
    """

    area: float
    desired: torch.Tensor
    gains: torch.Tensor


def gradient(model: Model, weights: torch.Tensor, keep_every: int | None = None) -> Gradient:
    """Area and gradient at ``weights``, fp64 [steps, examples].

    Args:
        keep_every: see :func:`megatron_ipt.selection.pds.dynamics.solve`; does not change the numbers.

    Raises:
        InputError: weights of another number of examples, or not on the simplex.
        StageError: a loss is not finite.
    """
    import torch

    if weights.dim() != 2 or weights.shape[1] != model.examples:
        raise InputError(f"a policy of shape {list(weights.shape)} does not fit {model.examples} training examples")
    solution = solve(
        model.calculus, model.start, _Steps(model, weights), learning_rate=model.learning_rate, rows=model.examples,
        keep_every=keep_every, by_step=True,
    )  # fmt: skip
    assert solution.by_step is not None
    first = model.calculus.target(detached(model.start))[0].double().reshape(1).cpu()
    desired = torch.cat([first, solution.targets])
    steps = len(weights)
    return Gradient(float(desired.sum()) / steps, desired, solution.by_step / steps)


def trajectory(model: Model, weights: torch.Tensor) -> Any:
    """Parameters before each step, then after the last: ``steps + 1`` of them, one at a time."""
    theta = detached(model.start)
    yield theta
    for parts in (_Steps(model, weights)[step] for step in range(len(weights))):
        total = zeros_like(theta)
        for part in parts:
            total = plus(total, 1.0, model.calculus.gradient(theta, part.batch, part.weights)[1])
        theta = plus(theta, -model.learning_rate, total)
        yield theta


def uniform(steps: int, examples: int) -> torch.Tensor:
    """Conventional training, fp64 [steps, examples]."""
    import torch

    return torch.full((steps, examples), 1 / examples, dtype=torch.float64)


@dataclass(frozen=True)
class Optimality:
    """How far a policy is from the conditions at an optimum, in units of the area.

    Attributes:
        gap: the number above.
        spread: largest difference of gains among examples with weight in the same step.
        excess: by how much an example without weight gains more than the mean of those with, at most.
    """

    gap: float
    spread: float
    excess: float


def optimality(weights: torch.Tensor, gains: torch.Tensor) -> Optimality:
    """The conditions of Karush, Kuhn and Tucker at ``weights`` with ``gains``, both [steps, examples]."""
    import torch

    largest = gains.max(1).values
    mean = (weights * gains).sum(1)
    positive = weights > 0
    lowest = torch.where(positive, gains, torch.inf).min(1).values
    highest = torch.where(positive, gains, -torch.inf).max(1).values
    outside = torch.where(positive, -torch.inf, gains).max(1).values
    return Optimality(
        gap=float((largest - mean).sum()),
        spread=float((highest - lowest).max()),
        excess=float((outside - mean).clamp_min(0).max()),
    )


@dataclass
class Search:
    """A search, as far as it has come; the whole of what a continued one needs.

    Attributes:
        weights: the best policy so far, fp64 [steps, examples].
        length: of the next step along the gradient of the summed desired loss, T times A.
        epoch: passes so far.
        history: one entry a pass: ``{epoch, area, gap, length, accepted}``; the area and gap of the best policy.
    """

    weights: torch.Tensor
    length: float
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def run_search(
    model: Model,
    search: Search,
    epochs: int,
    adapt: bool,
    tolerance: float,
    after_pass: Callable[[Search, Gradient], None],
) -> Gradient:
    """Goes on until ``epochs`` passes have been made, or the gap is at most ``tolerance`` times the area.

    Args:
        adapt: whether the length of a step follows from its success; False keeps it, whatever happens.
        after_pass: called after every pass, with what was found at the best policy.

    Returns:
        The gradient at the best policy.

    Raises:
        StageError: a loss is not finite at the policy that the search starts from.
    """
    best = gradient(model, search.weights)
    if not search.history:
        search.history.append(_entry(search, best, True))
        after_pass(search, best)
    while search.epoch < epochs and search.history[-1]["gap"] > tolerance * best.area:
        trial = project(search.weights + search.length * len(search.weights) * best.gains)
        try:
            found = gradient(model, trial)
        except StageError:
            if not adapt:
                raise
            found = None
        accepted = found is not None and (not adapt or _better(search, best, trial, found))
        search.epoch += 1
        if accepted and found is not None:
            search.weights, best = trial, found
        if adapt:
            search.length *= _LONGER if accepted else _SHORTER
        search.history.append(_entry(search, best, accepted))
        after_pass(search, best)
    return best


def _better(search: Search, best: Gradient, trial: torch.Tensor, found: Gradient) -> bool:
    """Whether the area fell by what a function that bends no more than the step allows would fall by, at least."""
    move = trial - search.weights
    scale = search.length * len(trial)
    promised = float((best.gains * move).sum() - move.square().sum() / (2 * scale))
    if promised > _CANCELLATION * best.area:
        return found.area <= best.area - promised
    return float(((best.gains + found.gains) * move).sum()) / 2 >= promised


def _entry(search: Search, best: Gradient, accepted: bool) -> dict[str, float]:
    return {
        "epoch": search.epoch,
        "area": best.area,
        "gap": optimality(search.weights, best.gains).gap,
        "length": search.length,
        "accepted": float(accepted),
    }
