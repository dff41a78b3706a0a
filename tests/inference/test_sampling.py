from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.sampling import Sampling


def test_defaults_are_the_recipe_s() -> None:
    generation = GenerationConfig(model="m", max_new_tokens=70, temperature=0.7, top_p=0.9)
    assert Sampling.of(generation) == Sampling(max_new_tokens=70, temperature=0.7, top_p=0.9)
    more = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    generation = GenerationConfig(model="m", max_new_tokens=70, stop=["\n\n"], **more)
    assert Sampling.of(generation) == Sampling(max_new_tokens=70, stop=("\n\n",), **more)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": 0}, {"min_p": 2},
        {"repetition_penalty": 0}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(RecipeError, match=f"^{name}: expected .*, found"):
        Sampling(**({"max_new_tokens": 5} | wrong))


def test_what_is_set_is_told() -> None:
    sampling = Sampling(5, temperature=0.5, stop_ids=(7,), extra={"min_tokens": 3})
    assert list(sampling.beyond_greedy()) == ["temperature", "stop_ids", "extra"]
    assert list(Sampling(5).beyond_greedy()) == []


def test_equal_settings_share_a_batch_whatever_extra_holds() -> None:
    one, other = (Sampling(5, extra={"bad_words": ["a"]}) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert one != replace(one, extra={"bad_words": ["b"]})
