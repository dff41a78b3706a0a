"""Scores of rows: against values by hand, autograd through the whole run, and training again with other weights."""

from __future__ import annotations

import dataclasses
import re
import weakref

import numpy as np
import pytest
import torch

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.selection.pds.central_differences import CentralDifferences
from megatron_ipt.selection.pds.correlation import spearman
from megatron_ipt.selection.pds.dynamics import Solution, Step, average, solve
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import TokenRow
from megatron_ipt.selection.pds.problem import Problem
from tests.selection.pds import twin
from tests.selection.pds.small_problems import CURVED, QUADRATIC, origin, rows

ALL = [rows(0, 1, 2)]
BY_STEP = torch.tensor(
    [
        [0.3224534712, 0.0, 0.6319491235],
        [0.1254969218, -0.0059186605, 0.4131576667],
        [0.0227188045, -0.0054660988, 0.2085869259],
    ],
    dtype=torch.float64,
)
STEPS, ETA = 20, 0.5
UNIFORM = torch.full((twin.TRAINING_ROWS,), 1 / twin.TRAINING_ROWS, dtype=torch.float64)


def quadratic(steps: list[Step], **options: object) -> Solution:
    return solve(ForwardMode(QUADRATIC), origin(), steps, learning_rate=0.1, rows=3, **options)  # type: ignore[arg-type]


def test_scores_of_a_quadratic_problem() -> None:
    found = quadratic([ALL] * 3, by_step=True)
    exact = [7624841 / 16200000, -614777 / 54000000, 101549191 / 81000000]
    assert found.scores.tolist() == pytest.approx(exact, rel=1e-13)
    assert found.by_step is not None
    torch.testing.assert_close(found.by_step, BY_STEP, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.by_step.sum(0), found.scores, rtol=1e-14, atol=0)
    assert float(found.targets.sum()) == pytest.approx(3.0271911622, abs=1e-10)
    assert found.times.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "wrong", [[0.5714202, -0.0121918, 1.4731247], [0.6106694, -0.0188478, 1.7312113]], ids=["no Hessian", "lambda_t"]
)
def test_other_recursions_give_other_scores(wrong: list[float]) -> None:
    difference = quadratic([ALL] * 3).scores - torch.tensor(wrong, dtype=torch.float64)
    assert (difference.abs() > 5e-4).all()


def test_every_step_may_train_on_other_rows() -> None:
    steps = [[rows(0, 1)], [rows(2, 0)], [rows(1, 2)]]
    found = quadratic(steps, scored=ALL)
    assert found.scores.tolist() == pytest.approx([x / 64000000 for x in (32763793, -296343, 81998109)], rel=1e-13)
    # Without ``scored``, a row is scored where it is trained on.
    all_steps = quadratic(steps, scored=ALL, by_step=True).by_step
    own = quadratic(steps, by_step=True)
    trained_on = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert all_steps is not None and own.by_step is not None
    torch.testing.assert_close(own.by_step, all_steps * trained_on, rtol=1e-13, atol=0)
    assert own.times.tolist() == [2, 2, 2]


def test_scores_of_some_steps() -> None:
    found = quadratic([ALL] * 3, scored=ALL, score_every=2)
    torch.testing.assert_close(found.scores, BY_STEP[0] + BY_STEP[2], rtol=0, atol=2e-10)
    assert found.times.tolist() == [2, 2, 2]
    torch.testing.assert_close(quadratic([ALL] * 3, score_every=2).scores, found.scores, rtol=1e-13, atol=0)


def test_weights_that_differ() -> None:
    """All weight on one row is a run on that row; the objective of such runs is known."""
    weights = [rows(0, 1, 2, weights=[0.0, 0.0, 1.0])]
    assert float(quadratic([weights] * 3).targets.sum()) == pytest.approx(2.407356, abs=5e-7)
    assert float(quadratic([[rows(0, 2)]] * 3).targets.sum()) == pytest.approx(2.766116, abs=5e-7)
    assert float(quadratic([[rows(1, 2)]] * 3).targets.sum()) == pytest.approx(2.980373, abs=5e-7)


def test_the_hessian_is_taken_where_the_step_began() -> None:
    """A quadratic problem has the same Hessian everywhere. Taken after the step, the first would be 1.7597547."""
    found = solve(ForwardMode(CURVED), origin(), [ALL] * 3, learning_rate=1.0, rows=3)
    assert found.scores.tolist() == pytest.approx([1.7488181292, -0.6342221393, 0.1449347216], abs=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 16])
def test_what_is_kept_does_not_change_a_bit(steps: int) -> None:
    theta, data = twin.parameters(), [twin.examples(40)] * steps
    by_default, stored, thin = (
        solve(ForwardMode(twin.problem()), theta, data, learning_rate=ETA, rows=64, keep_every=keep_every, by_step=True)
        for keep_every in (None, steps, 1)
    )
    for name in ("scores", "targets", "by_step"):
        assert torch.equal(getattr(by_default, name), getattr(stored, name))
        assert torch.equal(getattr(thin, name), getattr(stored, name))


def test_keeps_few_parameters() -> None:
    """Of 100 steps, the parameters of 10 and those of one segment of 10 are there at once, not of 100."""
    alive: list[int] = []
    seen: list[weakref.ref[torch.Tensor]] = []

    class Watching(ForwardMode):
        def gradient(self, theta, batch, weights):  # type: ignore[no-untyped-def]
            seen.append(weakref.ref(theta))
            alive.append(sum(reference() is not None for reference in seen))
            return super().gradient(theta, batch, weights)

    solve(Watching(QUADRATIC), origin(), [ALL] * 100, learning_rate=0.01, rows=3)
    assert len(alive) == 100 + 81
    assert max(alive) <= 22


@pytest.fixture(scope="module")
def solution() -> Solution:
    return solve(ForwardMode(twin.problem()), twin.parameters(), [twin.examples()] * STEPS, learning_rate=ETA, rows=64)


def test_language_model_against_autograd_through_the_run(solution: Solution) -> None:
    objective = twin.unrolled_objective(twin.problem(), twin.parameters(), STEPS, ETA)
    gamma = UNIFORM.clone().requires_grad_()
    value = objective(gamma)
    (gradient,) = torch.autograd.grad(value, gamma)
    assert float((solution.scores + gradient).abs().max() / gradient.abs().max()) < 1e-12
    assert float(solution.targets.sum()) == pytest.approx(value.item(), rel=1e-13)


def test_micro_batches_change_nothing(solution: Solution) -> None:
    steps = [twin.examples(20)] * STEPS
    found = solve(ForwardMode(twin.problem()), twin.parameters(), steps, learning_rate=ETA, rows=64)
    assert float((found.scores - solution.scores).abs().max() / solution.scores.abs().max()) < 1e-11


def test_language_model_against_training_again(solution: Solution) -> None:
    """With a little more or less of a row, without each row, and on subsets (linear datamodelling score)."""
    objective = torch.func.vmap(twin.unrolled_objective(twin.problem(), twin.parameters(), STEPS, ETA))
    scores = solution.scores
    some = torch.eye(64, dtype=torch.float64)[:8] * 1e-4
    slopes = (objective(UNIFORM - some) - objective(UNIFORM + some)) / 2e-4
    assert float(((slopes - scores[:8]) / scores[:8]).abs().max()) < 1e-6

    without = objective(UNIFORM * (1 - torch.eye(64, dtype=torch.float64)))
    assert spearman(without, scores) > 0.98

    chosen = np.random.default_rng(0).permuted(np.tile(np.arange(64) < 48, (32, 1)), axis=1)
    subsets = torch.from_numpy(chosen.astype(np.float64))
    assert spearman(-objective(subsets / 48), subsets @ scores) > 0.95


def test_noise_scores_low(solution: Solution) -> None:
    assert spearman(solution.scores, ~twin.IS_NOISE) > 0.8


def test_the_target_decides_which_rows_are_good() -> None:
    """Half of the rows count in threes, the others in fives; a target of one prefers its own, noise neither."""
    steps = [twin.examples(others=twin.counting_rows(32, 2, stride=5))] * STEPS

    def agreement(target: list[TokenRow]) -> float:
        found = solve(ForwardMode(twin.problem(target)), twin.parameters(), steps, learning_rate=0.2, rows=64)
        return spearman(found.scores, ~twin.IS_NOISE)

    # The order within the halves is not told by the flag, so that 0.867 is the most.
    assert agreement(twin.counting_rows(16, 3)) > 0.86
    assert agreement(twin.counting_rows(16, 3, stride=5)) < -0.86
    # By chance, the standard deviation of the correlation of 64 rows is 1/8.
    assert abs(agreement(twin.noise_rows(128, 8))) < 0.25


def test_central_differences_solve_the_same_run(solution: Solution) -> None:
    found = solve(
        CentralDifferences(twin.problem()),
        twin.parameters(dtype=torch.float32),
        [twin.examples()] * STEPS,
        learning_rate=ETA,
        rows=64,
    )
    assert float((found.scores - solution.scores).norm() / solution.scores.norm()) < 1e-3
    assert spearman(found.scores, solution.scores) > 0.999


def test_runs_from_several_starting_points() -> None:
    runs = [
        solve(ForwardMode(QUADRATIC), start, [ALL] * 3, learning_rate=0.1, rows=3, by_step=True)
        for start in (origin(), origin() + 1)
    ]
    mean = average(iter(runs))
    assert mean.by_step is not None
    torch.testing.assert_close(mean.scores, (runs[0].scores + runs[1].scores) / 2, rtol=1e-15, atol=0)
    torch.testing.assert_close(mean.by_step.sum(0), mean.scores, rtol=1e-13, atol=0)
    assert mean.targets[0] == (runs[0].targets[0] + runs[1].targets[0]) / 2
    assert average([runs[0], dataclasses.replace(runs[1], by_step=None)]).by_step is None


def test_runs_that_scored_different_rows_have_no_mean() -> None:
    with pytest.raises(InputError, match="run 1 did not score the rows that run 0 did"):
        average([quadratic([ALL]), quadratic([ALL], scored=[rows(0)])])
    with pytest.raises(InputError, match="there are none"):
        average([])


@pytest.mark.parametrize(
    ("steps", "options", "error", "message"),
    [
        ([], {}, RecipeError, "has no steps"),
        ([ALL], {"learning_rate": 0.0}, RecipeError, "found 0.0, must be a number above 0"),
        ([ALL], {"learning_rate": -1.0}, RecipeError, "found -1.0"),
        ([ALL], {"learning_rate": float("nan")}, RecipeError, "found nan"),
        ([ALL], {"score_every": 0}, RecipeError, "score_every of the proxy run: found 0"),
        ([ALL], {"keep_every": 0}, RecipeError, "keep_every of the proxy run: found 0"),
        ([ALL, []], {}, InputError, "step 1: there are no examples"),
        ([ALL, [rows()]], {}, InputError, "step 1: there are no examples"),
        ([ALL], {"scored": []}, InputError, "the scored examples: there are none"),
        ([ALL], {"scored": [rows(0), rows(1, 3)]}, InputError, "row 3 is not among the 3 rows"),
        ([[rows(0, -1)]], {}, InputError, "step 0: row -1 is not among"),
        ([ALL, [rows(0, 1, weights=[0.5, 0.4])]], {}, InputError, "step 1: the weights add up to 0.9;"),
        ([[rows(0, 1, weights=[1.5, -0.5])]], {}, InputError, "step 0: the weight of row 1 is -0.5"),
        ([[rows(0, 1, weights=[1.0, float("nan")])]], {}, InputError, "step 0: the weight of row 1 is nan"),
        ([[rows(0, 1, weights=[1.0])]], {}, InputError, "step 0: 1 weights for 2 examples"),
        ([[rows(0, weights=[1.0]), rows(1)]], {}, InputError, "step 0: 1 of 2 examples have a weight"),
    ],
)
def test_what_cannot_be_solved(
    steps: list[Step], options: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {"learning_rate": 0.1, "rows": 3, **options}
    with pytest.raises(error, match=re.escape(message)):
        solve(ForwardMode(QUADRATIC), origin(), steps, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("calculus", [ForwardMode, CentralDifferences])
def test_a_loss_that_is_not_finite_is_named(calculus: type) -> None:
    """The square root of row 1 leaves its domain where the first step of row 0 ends."""
    functions = [lambda at: at.square() * 4, lambda at: (at - 0.5).sqrt()]
    problem = Problem(
        losses=lambda theta, batch: torch.stack([functions[number](theta[0]) for number in batch]),
        targets=[lambda theta: theta[0]],
    )
    start = torch.ones(1, dtype=torch.float64)
    with pytest.raises(StageError, match=r"step 1: the loss of row 1 is nan \(1 of 2 in its micro-batch"):
        solve(calculus(problem), start, [[rows(0)], [rows(0, 1)]], learning_rate=0.1, rows=2)
    with pytest.raises(StageError, match="step 1: the score of row 1 is nan"):
        solve(calculus(problem), start, [[rows(0)], [rows(0)]], learning_rate=0.1, rows=2, scored=[rows(0, 1)])


def test_an_objective_that_is_not_finite_is_named() -> None:
    problem = Problem(QUADRATIC.losses, [lambda theta: (theta[0] - 0.1).log()])
    with pytest.raises(StageError, match="J after step 0 is nan"):
        solve(ForwardMode(problem), origin(), [[rows(1)]], learning_rate=0.1, rows=3)


def test_losses_of_the_wrong_shape_are_named() -> None:
    problem = Problem(lambda theta, batch: theta[:1], QUADRATIC.targets)
    with pytest.raises(StageError, match=r"step 0: the loss of 3 examples has shape \(1,\)"):
        solve(ForwardMode(problem), origin(), [ALL], learning_rate=0.1, rows=3)
