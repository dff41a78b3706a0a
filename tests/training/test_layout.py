from __future__ import annotations

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.training.ranks.layout import Layout, rank_and_world

from .conftest import settings


def test_rest_of_the_world_is_data_parallel() -> None:
    layout = Layout.of(settings("parallel.tensor_model_parallel_size=2"), 4)
    assert layout == Layout(world_size=4, tensor=2, pipeline=1, data=2, micro_batches=2)


def test_ranks_that_cannot_be_shared_out() -> None:
    with pytest.raises(RecipeError, match="start 2 or 4 ranks"):
        Layout.of(settings("parallel.pipeline_model_parallel_size=2"), 3)


def test_batch_that_cannot_be_shared_out() -> None:
    with pytest.raises(RecipeError, match="nearest that are: 6 or 12"):
        Layout.of(settings(), 3)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2"}, (5, 8, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8",
          "SLURM_LOCALID": "2"}, (0, 1, 0)),
    ],
)  # fmt: skip
def test_rank_comes_from_torchrun_or_srun(environment: dict[str, str], expected: tuple[int, int, int]) -> None:
    assert rank_and_world(environment) == expected
