"""The scorer of PDS: a regression from what a row says to the score that the proxy run gave it.

Scores are heavy-tailed, so the scorer learns them in standard deviations from their mean, clipped at three. Only their
order decides what is kept, so the state with the best Spearman correlation on held-out rows is the one that stays. One
that orders held-out rows no better than chance is refused: it would select at random at the price of a selection.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.seeding import derive, unit_interval
from megatron_ipt.selection.pds.correlation import spearman

if TYPE_CHECKING:
    import torch

_CLIP = 3.0
"""Standard deviations beyond which scores do not differ; as in the paper."""


@dataclass(frozen=True)
class FitSettings:
    """How a scorer is trained; the defaults are the paper's where it names one.

    Attributes:
        epochs: passes over the training rows.
        learning_rate: of AdamW, constant.
        rows_per_batch: rows per optimizer step.
        held_out: share of rows that are not trained on.
        seed: for which rows are held out, and the order of the others.
    """

    epochs: int = 5
    learning_rate: float = 1e-4
    rows_per_batch: int = 32
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "rows_per_batch"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name} of the scorer: found {getattr(self, name)}, must be above 0")
        if not 0 < self.held_out < 1:
            raise RecipeError(f"held_out of the scorer: found {self.held_out}, must lie between 0 and 1")


@dataclass(frozen=True)
class Fit:
    """What became of a scorer.

    Attributes:
        spearman: on held-out rows, of the state that was kept.
        epoch: after which the kept state was reached, from 1.
        by_epoch: Spearman correlation on held-out rows after each epoch; 0 for constant predictions.
        mean: of the scores of training rows; predictions are (score - mean) / deviation.
        deviation: their standard deviation.
        held_out: places of the held-out rows, ascending.
    """

    spearman: float
    epoch: int
    by_epoch: list[float]
    mean: float
    deviation: float
    held_out: list[int] = field(repr=False)


def fit_scorer(
    model: torch.nn.Module,
    inputs: Callable[[Sequence[int]], Any],
    ids: Sequence[str],
    scores: npt.ArrayLike,
    settings: FitSettings | None = None,
) -> Fit:
    """Trains ``model`` in place, and leaves it with the best state on held-out rows.

    Args:
        model: takes what ``inputs`` returns, gives one number per row, [rows]: a head such as :func:`linear_head` on
            features that were computed before, or a whole model. Parameters with ``requires_grad`` are trained.
        inputs: what the model takes for the rows at these places.
        ids: of the rows; they decide which are held out and the order of training.
        scores: of the rows, [rows].

    Raises:
        InputError: scores of another number, not finite or constant; no row is left to train on or to hold out.
        StageError: the model orders held-out rows no better than chance.
    """
    import torch

    settings = settings or FitSettings()
    values = np.asarray(scores, np.float64)
    _check(values, ids)
    is_held_out = [unit_interval(settings.seed, "scorer", "held out", id) < settings.held_out for id in ids]
    held_out = [place for place, out in enumerate(is_held_out) if out]
    training = [place for place, out in enumerate(is_held_out) if not out]
    if len(held_out) < 2 or len(training) < 2:
        raise InputError(
            f"the scorer has {len(training)} rows to learn from and {len(held_out)} held out, and needs two of each;"
            " score more rows or change held_out"
        )
    mean, deviation = float(values[training].mean()), float(values[training].std())
    if not deviation > 0:
        raise InputError(_constant(len(training)))
    targets = torch.from_numpy(((values - mean) / deviation).clip(-_CLIP, _CLIP))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=settings.learning_rate
    )
    by_epoch: list[float] = []
    best: dict[str, Any] = {}
    for epoch in range(settings.epochs):
        model.train()
        order = sorted(training, key=lambda place: derive(settings.seed, "scorer", "order", epoch, ids[place]))
        for places in _portions(order, settings.rows_per_batch):
            predicted = model(inputs(places))
            loss = (predicted - targets[places].to(predicted)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = spearman(predict(model, inputs, held_out, settings.rows_per_batch), values[held_out])
        by_epoch.append(0.0 if math.isnan(found) else found)
        if by_epoch[-1] > max(by_epoch[:-1], default=-math.inf):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    epoch = int(np.argmax(by_epoch))
    if not by_epoch[epoch] > 0:
        raise StageError(
            f"the scorer orders the {len(held_out)} held-out rows no better than chance: its Spearman correlation with"
            f" their scores is {by_epoch[epoch]:.3f} at best; score more rows, train for more epochs or at another"
            " learning rate, or use a larger model"
        )
    return Fit(by_epoch[epoch], epoch + 1, by_epoch, mean, deviation, held_out)


def predict(
    model: torch.nn.Module, inputs: Callable[[Sequence[int]], Any], places: Sequence[int], rows_per_batch: int = 32
) -> npt.NDArray[np.float64]:
    """What ``model`` says about the rows at ``places``, [rows], in standard deviations of the scores it was fitted to.

    Raises:
        StageError: a prediction is not finite.
    """
    import torch

    model.eval()
    with torch.no_grad():
        parts = [model(inputs(portion)).double().cpu().numpy() for portion in _portions(places, rows_per_batch)]
    predicted = np.concatenate(parts) if parts else np.zeros(0)
    wrong = np.flatnonzero(~np.isfinite(predicted))
    if len(wrong):
        raise StageError(
            f"the scorer says {predicted[wrong[0]]} for row {places[wrong[0]]}: its training diverged, lower its"
            " learning rate; or the row's features are not finite"
        )
    return predicted


def linear_head(width: int) -> torch.nn.Module:
    """A model that maps features [rows, width] to [rows], and starts with zeros."""
    import torch

    linear = torch.nn.Linear(width, 1)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    return torch.nn.Sequential(linear, torch.nn.Flatten(0))


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of rows, [rows, width]: means of ``hidden`` [rows, seq, width] over the tokens in ``mask`` [rows, seq]."""
    mask = mask.to(hidden).unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


def _portions(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _check(values: npt.NDArray[np.float64], ids: Sequence[str]) -> None:
    if values.shape != (len(ids),):
        raise InputError(f"the scorer needs one score per row: found shape {values.shape} for {len(ids)} rows")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(f"the score of row {ids[wrong[0]]} is {values[wrong[0]]} ({len(wrong)} rows have none)")
    if len(values) and np.ptp(values) == 0:
        raise InputError(_constant(len(values)))


def _constant(rows: int) -> str:
    return (
        f"all {rows} scores are equal: there is nothing to learn; was the proxy run too short, or its target set empty?"
    )
