"""Combinations that are refused before anything starts, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.training.config import TrainingConfig


def check(**section: Any) -> TrainingConfig:
    return load(TrainingConfig, None, ["distillation=" + json.dumps({"teacher": {"path": "t"}} | section)])


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


@pytest.mark.parametrize(
    "section",
    [
        {"objective": "minillm", "alpha": 0.5},
        {"objective": "minillm", "minillm": {"importance": "exact", "clip": None}},
        {"objective": "dpkd", "dpkd": {"form": "token"}},
        {"objective": "jsd", "on_policy": {"fraction": 1.0, "temperature": 0}},
    ],
)
def test_what_can_be_is_not(section: dict[str, Any]) -> None:
    assert check(**section).distillation.is_on
