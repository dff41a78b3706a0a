from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.models.divisibility import divisors, multiples
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.presets import PRESETS, resolve_shape
from megatron_ipt.models.weights import Weight


@pytest.mark.parametrize(
    ("family", "traits"),
    [
        # bias on queries, keys and values; norms of queries and keys; experts
        ("mistral", (False, False, False)),
        ("llama", (False, False, False)),
        ("qwen2", (True, False, False)),
        ("qwen3", (False, True, False)),
        ("mixtral", (False, False, True)),
    ],
)
def test_traits_follow_from_the_weights(family: str, traits: tuple[bool, bool, bool]) -> None:
    row = FAMILIES[family]
    assert (row.add_qkv_bias, row.qk_layernorm, row.mixture_of_experts) == traits
    assert row.gated_linear_unit


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_possible_models(preset: str) -> None:
    shape = resolve_shape({"preset": preset})
    assert not list(shape.problems())
    assert ModelShape.from_dict(shape.as_dict(), "model.json") == shape


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_layers": 10**9}, ("num_layers", "1000000000 is not a whole number from 1 to 10,000")),
        ({"num_layers": 2.0}, ("num_layers", "2.0 is not a whole number from 1 to 10,000")),
        ({"num_attention_heads": 0}, ("num_attention_heads", "0 is not a whole number from 1 to 65,536")),
        ({"hidden_size": True}, ("hidden_size", "True is not a whole number from 1 to 16,777,216")),
        ({"rotary_base": float("nan")}, ("rotary_base", "nan is not a number of at least 1")),
        ({"norm_epsilon": "1e-5"}, ("norm_epsilon", "'1e-5' is not a number of at least 0")),
        (
            {"untie_embeddings_and_output_weights": 1},
            ("untie_embeddings_and_output_weights", "1 is neither true nor false"),
        ),
        (
            {"num_query_groups": 3},
            ("num_query_groups", "3 does not divide num_attention_heads=4; nearest that do: 2 or 4"),
        ),
        ({"kv_channels": 15}, ("kv_channels", "15 is odd; rotary position embedding rotates pairs of channels")),
        ({"moe_router_topk": 5}, ("moe_router_topk", "5 is greater than num_moe_experts=4")),
        ({"num_moe_experts": None}, ("num_moe_experts", "family mixtral has experts; set their number")),
        (
            {"rope_scaling_factor": 8.0, "rope_low_freq_factor": 4.0},
            ("rope_low_freq_factor", "4 is not less than rope_high_freq_factor=4"),
        ),
    ],
)  # fmt: skip
def test_what_is_not_a_model(changes: dict[str, object], problem: tuple[str, str]) -> None:
    values = {**resolve_shape({"preset": "tiny_moe"}).as_dict(), **changes}
    assert list(ModelShape(**values).problems()) == [problem]
    with pytest.raises(InputError) as caught:
        ModelShape.from_dict(values, "a/model.json")
    assert str(caught.value) == f"a/model.json: {problem[0]}: {problem[1]}"


def test_a_description_of_another_version() -> None:
    values = resolve_shape({"preset": "tiny"}).as_dict()
    with pytest.raises(InputError, match=r"^f: not a model shape that this version can read: .*'sparsity'"):
        ModelShape.from_dict({**values, "sparsity": 2}, "f")
    with pytest.raises(InputError, match=r"^f: unknown model family 'gpt5'; known: mistral, llama"):
        ModelShape.from_dict({**values, "family": "gpt5"}, "f")


def test_a_family_from_another() -> None:
    """As an extension makes one: the traits follow from what is added."""
    norms = tuple(weight for weight in FAMILIES["qwen3"].layer if weight not in FAMILIES["mistral"].layer)
    both = replace(FAMILIES["qwen2"], layer=(*FAMILIES["qwen2"].layer, *norms))
    assert both.add_qkv_bias and both.qk_layernorm and not both.mixture_of_experts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mlp.x", ("mlp.y",), ("fnn",), "hidden"), "mlp.x: unknown size fnn; known sizes: hidden, ffn, queries"),
        (("mlp.x", ("mlp.y", "mlp.z"), ("ffn",), "hidden"), "mlp.x: 2 tensors, but 1 numbers of rows"),
    ],
)
def test_a_mistake_in_a_weight_is_found_when_it_is_made(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Weight(*arguments)  # type: ignore[arg-type]


def test_nearest_values_that_divide() -> None:
    assert multiples(10, of=4) == "8 or 12"
    assert multiples(3, of=4) == "4"
    assert divisors(4, near=3) == "2 or 4"
    assert divisors(12, near=50) == "12"
    # Only numbers nearby are tried, so that a mistyped size is answered at once.
    assert divisors(10**12, near=3) == "2 or 4"
    assert divisors(0, near=3) == ""
