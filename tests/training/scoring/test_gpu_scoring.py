"""Scores on a GPU, by Transformer Engine where it is installed. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.training.scoring.ranks import ScoringRanks

from .conftest import make_requests, transformers_scores

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="scoring needs Megatron-Core")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("auto", 0.05)])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_scores_are_those_of_transformers(
    family: str, precision: str, tolerance: float, models: Callable[..., tuple[Path, Path]]
) -> None:
    folder, checkpoint = models(family)
    requests = make_requests(16)
    with ScoringRanks(checkpoint, MegatronConfig(precision=precision, batch_tokens=200)) as ranks:
        found = [score.log_likelihood for score in ranks.score(requests)]
        assert ranks.precision == ("fp32" if precision == "fp32" else "bf16")
    expected = [total for total, _ in transformers_scores(folder, requests)]
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_ranks_on_two_gpus_agree_with_one(models: Callable[..., tuple[Path, Path]]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here")
    checkpoint = models("llama")[1]
    sums = []
    for settings in ({}, {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}, {"nproc": 2}):
        with ScoringRanks(checkpoint, MegatronConfig(precision="fp32", **settings)) as ranks:
            sums.append([score.log_likelihood for score in ranks.score(make_requests())])
    assert all(found == pytest.approx(sums[0], rel=1e-5) for found in sums[1:])
