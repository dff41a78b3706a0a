"""The scorer, on rows whose scores follow from their features by a known rule."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.seeding import unit_interval
from megatron_ipt.selection.pds.correlation import spearman
from megatron_ipt.selection.pds.fit import Fit, FitSettings, fit_scorer, linear_head, mean_pool, predict

ROWS, WIDTH = 400, 6
IDS = [f"row-{number}" for number in range(ROWS)]
FEATURES = torch.from_numpy(np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32))
DIRECTION = np.array([1.0, -2.0, 0.5, 0.0, 0.0, 3.0])
SCORES = 40 + 5 * (FEATURES.numpy() @ DIRECTION)
FAST = FitSettings(epochs=20, learning_rate=0.03, rows_per_batch=20, held_out=0.25, seed=1)


def features(places: Sequence[int]) -> torch.Tensor:
    return FEATURES[list(places)]


def fit(scores: np.ndarray = SCORES, settings: FitSettings = FAST) -> tuple[torch.nn.Module, Fit]:
    head = linear_head(WIDTH)
    return head, fit_scorer(head, features, IDS, scores, settings)


def test_a_linear_rule_is_found() -> None:
    head, found = fit()
    assert found.spearman > 0.999
    training = np.setdiff1d(np.arange(ROWS), found.held_out)
    assert found.mean == pytest.approx(SCORES[training].mean()) and found.deviation == pytest.approx(
        SCORES[training].std()
    )
    # In standard deviations, the weights are the rule's.
    learned = head.get_parameter("0.weight")[0].detach().numpy() * found.deviation
    assert learned == pytest.approx(5 * DIRECTION, abs=0.4)
    assert predict(head, features, [7, 3]) == pytest.approx((SCORES[[7, 3]] - found.mean) / found.deviation, abs=0.15)


def test_which_rows_are_held_out_depends_on_their_ids() -> None:
    _, found = fit()
    assert found.held_out == [
        place for place, id in enumerate(IDS) if unit_interval(1, "scorer", "held out", id) < 0.25
    ]
    reversed_head = linear_head(WIDTH)
    reversed_fit = fit_scorer(
        reversed_head, lambda places: FEATURES.flip(0)[list(places)], IDS[::-1], SCORES[::-1], FAST
    )
    assert reversed_fit.by_epoch == pytest.approx(found.by_epoch, abs=1e-4)
    assert sorted(ROWS - 1 - place for place in reversed_fit.held_out) == found.held_out
    _, other = fit(settings=FitSettings(**{**vars(FAST), "seed": 2}))
    assert other.held_out != found.held_out


def test_scores_far_out_are_clipped() -> None:
    """A bias alone learns the mean of the targets. One of 300 rows far out is 17 deviations away, and counts as 3."""
    place = next(place for place, id in enumerate(IDS) if unit_interval(1, "scorer", "held out", id) >= 0.25)
    scores = np.where(np.arange(ROWS) == place, 1e6, FEATURES[:, 0].numpy())

    class Bias(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(()))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            # The order of held-out rows is right whatever the bias, so that the fit is not refused.
            return self.bias + 1e-6 * rows[:, 0]

    model = Bias()
    found = fit_scorer(model, features, IDS, scores, FitSettings(60, 0.003, ROWS, 0.25, 1))
    assert found.epoch == 1
    # Adam's first step has the size of the learning rate and the sign of what it is pulled to: the mean of standardised
    # scores is zero, and clipping from above makes it negative.
    assert model.bias.item() == pytest.approx(-0.003, rel=1e-3)


def test_the_best_state_is_kept_not_the_last() -> None:
    """After some epochs on scores of one row each, noise is learned by heart; what is left is the state before that."""
    generator = np.random.default_rng(3)
    noisy = SCORES + generator.normal(size=ROWS) * 60
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1), torch.nn.Flatten(0)
    )
    found = fit_scorer(model, features, IDS, noisy, FitSettings(40, 0.01, 20, 0.25, 1))
    assert found.by_epoch[-1] < found.spearman == max(found.by_epoch)
    assert found.by_epoch[found.epoch - 1] == found.spearman
    assert spearman(predict(model, features, found.held_out), noisy[found.held_out]) == found.spearman


def test_a_scorer_that_learned_nothing_is_refused() -> None:
    """Held-out rows follow the opposite rule."""
    held_out = np.array([unit_interval(1, "scorer", "held out", id) < 0.25 for id in IDS])
    with pytest.raises(StageError, match=r"orders the \d+ held-out rows no better than chance: .* is -0\.\d+ at best"):
        fit(np.where(held_out, -SCORES, SCORES))


def test_constant_predictions_are_no_better_than_chance() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, 1), torch.nn.Threshold(1e9, 0.0), torch.nn.Flatten(0))
    with pytest.raises(StageError, match=r"is 0\.000 at best"):
        fit_scorer(model, features, IDS, SCORES, FAST)


def test_a_whole_model_is_trained() -> None:
    """Rows of tokens; the score of a row is how often a token occurs in it, padding aside."""
    generator = np.random.default_rng(0)
    tokens = torch.from_numpy(generator.integers(0, 5, (ROWS, 12)))
    lengths = torch.from_numpy(generator.integers(6, 13, ROWS))
    mask = torch.arange(12) < lengths.unsqueeze(1)
    scores = ((tokens == 3) & mask).sum(1) / lengths

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = torch.nn.Embedding(5, 8)
            self.head = linear_head(8)

        def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return self.head(mean_pool(self.trunk(batch[0]), batch[1]))

    torch.manual_seed(0)
    model = Model()
    before = model.trunk.weight.detach().clone()
    found = fit_scorer(
        model,
        lambda places: (tokens[list(places)], mask[list(places)]),
        IDS,
        scores,
        FitSettings(10, 0.03, 20, 0.25, 1),
    )
    assert found.spearman > 0.98
    assert not torch.equal(model.trunk.weight, before)


def test_mean_over_the_tokens_of_a_row() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])
    assert mean_pool(hidden, torch.tensor([[True, True, False]])).tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.full(ROWS, 2.0), f"all {ROWS} scores are equal"),
        (np.where(np.arange(ROWS) == 9, np.nan, SCORES), "the score of row row-9 is nan (1 rows"),
        (SCORES[:-1], "found shape (399,) for 400 rows"),
    ],
)
def test_scores_that_cannot_be_learned(scores: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fit(scores)


def test_rows_must_be_left_on_both_sides() -> None:
    with pytest.raises(InputError, match="and 0 held out"):
        fit(settings=FitSettings(held_out=1e-9))
    with pytest.raises(InputError, match="has 0 rows to learn from"):
        fit_scorer(linear_head(WIDTH), features, [], [])


def test_predictions_that_are_not_finite_are_named() -> None:
    with pytest.raises(StageError, match="the scorer says nan for row 5"):
        predict(linear_head(WIDTH), lambda places: features(places) / torch.tensor(places).sub(5).unsqueeze(1), [4, 5])


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"learning_rate": -1.0}, {"rows_per_batch": 0}, {"held_out": 1.0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(RecipeError, match=f"{name} of the scorer: found {wrong[name]}"):
        FitSettings(**wrong)  # type: ignore[arg-type]
