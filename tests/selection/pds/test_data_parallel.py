"""Two ranks that share the rows of every step say what one rank says; and both raise what one of them finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from megatron_ipt.errors import UserError
from megatron_ipt.selection.pds.dynamics import Examples, Solution, Step, solve
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import row_losses, token_batches
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.target import mean_loss
from tests.selection.pds import twin
from tests.selection.pds.small_problems import QUADRATIC, origin, rows

STEPS = 4


def share(rank: int, world: int) -> tuple[Problem, list[Step]]:
    """This rank's part of the target rows and of the steps: unequal parts, and in one step, nothing for the last."""
    losses = row_losses(twin.token_losses)
    target = token_batches(twin.counting_rows(twin.TARGET_ROWS, 3)[rank::world], 5)
    steps: list[Step] = []
    for step in range(STEPS):
        numbers = list(range(step, 48 + step))[rank::world] if step != 2 else list(range(5)) * (rank == 0)
        training = [twin.training_rows()[number] for number in numbers]
        batches = token_batches(training, 11)
        steps.append([Examples(*part) for part in zip(batches, torch.tensor(numbers).split(11))])
    return Problem(losses, mean_loss(losses, target)), steps


def solve_share(rank: int, world: int) -> Solution:
    problem, steps = share(rank, world)
    return solve(ForwardMode(problem), twin.parameters(), steps, learning_rate=0.5, rows=64, by_step=True)


def complaints(rank: int) -> list[str]:
    """What this rank is told where only the last rank's share is wrong."""
    square_root = Problem(lambda theta, batch: (theta[:1].expand(len(batch)) - batch).sqrt(), [lambda theta: theta[0]])
    wrong = (
        (QUADRATIC, [rows(0)], [rows(1, 5)]),
        (QUADRATIC, [rows(0, weights=[0.5])], [rows(1, weights=[0.6])]),
        (QUADRATIC, [], []),
        (square_root, [rows(0)], [rows(2)]),
    )
    told = []
    for problem, *shares in wrong:
        try:
            solve(ForwardMode(problem), origin() + 1, [shares[rank]], learning_rate=0.1, rows=3)
        except UserError as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


def _rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save((solve_share(rank, 2), complaints(rank)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (tmp_path,), nprocs=2)
    alone = solve_share(0, 1)
    (first, told_first), (second, told_second) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)
    )
    for name in ("scores", "times", "targets", "by_step"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        torch.testing.assert_close(getattr(first, name), getattr(alone, name), rtol=1e-12, atol=1e-12)
    # Steps 0, 1 and 3 train on 48 rows each, step 2 on the first five.
    assert alone.times.tolist() == [2, 3, 3, 4, 4] + [3] * 43 + [2, 1, 1] + [0] * 13
    assert told_first == told_second
    for text, expected in zip(
        told_first,
        (
            "InputError: step 0: row 5 is not among the 3 rows of this run",
            "InputError: step 0: the weights add up to 1.1;",
            "InputError: step 0: there are no examples on any rank",
            "StageError: step 0: the loss of row 2 is nan",
        ),
        strict=True,
    ):
        assert text.startswith(expected)
