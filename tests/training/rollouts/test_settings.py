"""Combinations that are refused before anything starts, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.training.config import TrainingConfig


def check(*others: str, **section: Any) -> TrainingConfig:
    settings = json.dumps({"teacher": {"path": "t"}} | section)
    return load(TrainingConfig, None, ["model.preset=tiny", f"distillation={settings}", *others])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"objective": "minillm", "temperature": 0.9}, "distillation.temperature: must be 1 with objective minillm"),
        ({"objective": "minillm", "on_policy": {"temperature": 0.7}}, "on_policy.temperature: 0.7, but minillm's"),
        ({"objective": "minillm", "on_policy": {"top_p": 0.9}}, "on_policy.top_p: unknown key"),
        ({"objective": "dpkd", "on_policy": {"fraction": 0.5}}, "on_policy.fraction: not with objective dpkd"),
        ({"objective": "dpkd", "on_policy": {"temperature": 0}}, "on_policy.temperature: at 0 there is one response"),
        ({"alpha": 0.5, "on_policy": {"fraction": 0.5}}, "distillation.alpha: 0.5 would train the next-token loss on"),
        ({"objective": "minillm", "minillm": {"teacher_share": 1}}, "minillm.teacher_share: at 1 the weights"),
        (
            {"objective": "minillm", "minillm": {"importance": "exact"}},
            "minillm.clip: importance exact is without",
        ),
        ({"objective": "minillm", "minillm": {"form": "released", "clip": None}}, "minillm.clip: form released bounds"),
        ({"objective": "minilm"}, "Did you mean minillm?"),
    ],
)
def test_what_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        check(**section)
    assert message in str(error.value)


ROUNDS = {"objective": "dpkd", "on_policy": {"rollouts": 16, "batch_size": 8, "max_new_tokens": 64}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parallel.context_parallel_size=2", "parallel.context_parallel_size: 2, but the student draws responses"),
        ("parallel.expert_model_parallel_size=2", "parallel.expert_model_parallel_size: 2, but the student draws"),
        ("precision=fp8", "precision: fp8, whose kernels need more than a token at a time"),
        ("batch_ramp.start=4", "batch_ramp.start: not with responses drawn in rounds"),
        ("micro_batch_size=1", "micro_batch_size: 1 is odd; dpkd compares two responses of a micro-batch"),
        ("distillation.on_policy.batch_size=6", "on_policy.batch_size: 6 is not divisible by micro_batch_size=4"),
        ("distillation.on_policy.rollouts=18", "on_policy.rollouts: 18 is not divisible by 4, the prompts of a step"),
        ("data.seq_length=64", "on_policy.max_new_tokens: 64 leaves no room for a prompt in data.seq_length=64"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(override: str, message: str) -> None:
    assert check(**ROUNDS).distillation.draws_in_rounds
    with pytest.raises(RecipeError) as error:
        check(override, **ROUNDS)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "section",
    [
        {"objective": "minillm", "alpha": 0.5, "on_policy": {"max_new_tokens": 64}},
        {
            "objective": "minillm",
            "minillm": {"importance": "exact", "clip": None},
            "on_policy": {"max_new_tokens": 64, "rollouts": 32},
        },
        {"objective": "dpkd", "dpkd": {"form": "token"}},
        {"objective": "jsd", "on_policy": {"fraction": 1.0, "temperature": 0}},
    ],
)
def test_what_can_be_is_not(section: dict[str, Any]) -> None:
    assert check(**section).distillation.is_on
