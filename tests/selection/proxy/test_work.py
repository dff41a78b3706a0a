"""What a run computes, against what it is counted to compute; and what ``plan`` makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_ipt.files import write_json
from megatron_ipt.selection.config import LEARNED, ScorerConfig, ScoringConfig
from megatron_ipt.selection.cost import flops_of, scoring_cost
from megatron_ipt.selection.fitting.config import FittingConfig
from megatron_ipt.selection.fitting.cost import cost as fitting_cost
from megatron_ipt.selection.pds.dynamics import Step, solve
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.selection.proxy.cost import cost as proxy_cost
from megatron_ipt.selection.proxy.work import Counted, passes
from megatron_ipt.stages import DOCUMENTS, PROXY_SCORES, SCORER
from tests.selection.pds.small_problems import QUADRATIC, origin, rows
from tests.selection.test_cost import LLAMA, planning, scorer


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 16])
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("score_every", [1, 3])
def test_passes_are_those_of_a_run(steps: int, batch: int | None, score_every: int) -> None:
    done: list[int] = []
    step: Step = [rows(0, 1, 2)] if batch is None else [rows(0), rows(1)]
    scored = None if batch is None else [rows(0, 1), rows(2)]
    calculus = Counted(ForwardMode(QUADRATIC), 2, done.append)
    solve(
        calculus, origin(), [step] * steps, learning_rate=0.01, rows=3, scored=scored, score_every=score_every
    )  # fmt: skip
    assert sum(done) == passes(steps, batch, 3, score_every, 2)
    assert torch.equal(calculus.target(origin())[1], ForwardMode(QUADRATIC).target(origin())[1])


def test_plan(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", LLAMA)
    proxy = ProxyConfig(starts=[str(tmp_path), "other"], target=["t"], seq_length=1024)
    estimate = proxy_cost(proxy, planning())
    # 100 steps of 256 documents, forwards once and, for nine of ten segments of ten, nine steps again; 99 curvatures;
    # 2,048 documents scored ten times; 1,000 target texts. All of 500 tokens, from two starting points.
    forward_passes = (100 + 81) * 256 * 3 + 99 * 256 * 6 + 10 * 2048 * 2 + 100 * 1000 * 3
    of_token = flops_of(scorer(tmp_path), 1.0)
    assert of_token is not None
    (row,) = estimate.costs
    flops = 2 * 500 * forward_passes * of_token
    assert estimate.facts["proxy"]["flops"] == pytest.approx(flops)
    assert row.gpu_hours == pytest.approx(flops / (989e12 / 16 * 0.5) / 3600) and row.workers == 1

    fitting = FittingConfig(trunk=str(tmp_path), seq_length=1024)
    sample = planning()
    fitted = fitting_cost(fitting, type(sample)(sample.machine, sample.assumptions, dict(estimate.makes)))
    assert set(estimate.makes) == {PROXY_SCORES} and set(fitted.makes) == {SCORER}
    assert fitted.facts["fitting"]["flops"] == pytest.approx(2048 * 500 * 5 * 2.8 * of_token)

    learned = ScoringConfig({"pds": ScorerConfig(engine=LEARNED)})
    inputs = {DOCUMENTS: sample.inputs[DOCUMENTS], **fitted.makes}
    scored = scoring_cost(learned, type(sample)(sample.machine, sample.assumptions, inputs))
    assert scored.facts["scoring"]["pds"]["flops"] == pytest.approx(5e8 * of_token)


def test_sizes_that_are_not_here(tmp_path: Path) -> None:
    proxy = ProxyConfig(starts=[str(tmp_path)], target=["t"])
    (row,) = proxy_cost(proxy, planning()).costs
    assert row.hours is None and "not here" in row.basis
