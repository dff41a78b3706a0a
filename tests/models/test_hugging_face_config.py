"""config.json both ways, against transformers' own reading of the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from megatron_ipt.errors import InputError
from megatron_ipt.models.families import FAMILIES, ModelShape
from megatron_ipt.models.hugging_face_config import (
    TokenIds,
    generation_config,
    hugging_face_config,
    read_model_config,
)
from megatron_ipt.models.presets import PRESETS, resolve_shape

LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
MINIMAL = {
    "vocab_size": 1000, "hidden_size": 1024, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 32, "max_position_embeddings": 65536, "rms_norm_eps": 1e-6,
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    return write_config(folder, {**LLAMA, **changes})


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    values = {name: value for name, value in config.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def rejected(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_model_config(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder}/config.json: ")
    return text.removeprefix(f"{folder}/config.json: ")


def shape_of(folder: Path) -> ModelShape:
    return resolve_shape({}, read_model_config(folder)[0])


def test_llama_with_scaled_rotary_embedding_is_the_preset(tmp_path: Path) -> None:
    assert shape_of(write(tmp_path)) == resolve_shape({"preset": "llama3.1_8b"})
    assert read_model_config(tmp_path)[1] == 128256
    assert read_model_config(tmp_path / "config.json") == read_model_config(tmp_path)


def test_form_of_transformers_5(tmp_path: Path) -> None:
    new = {**LLAMA["rope_scaling"], "rope_theta": 500000.0}  # type: ignore[dict-item]
    folder = write(tmp_path, rope_scaling="absent", rope_theta="absent", rope_parameters=new)
    assert shape_of(folder) == resolve_shape({"preset": "llama3.1_8b"})


@pytest.mark.parametrize("family", FAMILIES)
def test_an_absent_key_means_what_it_means_to_transformers(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_config(tmp_path, {**MINIMAL, "model_type": family})
    shape, theirs = shape_of(folder), transformers.AutoConfig.from_pretrained(folder)
    window = theirs.sliding_window if hasattr(theirs, "sliding_window") else None
    assert shape.num_query_groups == theirs.num_key_value_heads
    assert shape.kv_channels == (getattr(theirs, "head_dim", None) or 1024 // 32)
    assert shape.rotary_base == theirs.rope_parameters["rope_theta"]
    assert shape.untie_embeddings_and_output_weights == (not theirs.tie_word_embeddings)
    assert shape.max_position_embeddings == (window or 65536)
    assert shape.init_method_std == theirs.initializer_range
    if FAMILIES[family].mixture_of_experts:
        experts = (theirs.num_local_experts, theirs.num_experts_per_tok)
        assert (shape.num_moe_experts, shape.moe_router_topk) == experts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("transformers_writes", [False, True], ids=["ours", "saved by transformers"])
def test_every_preset_comes_back_from_its_file(
    family: str, preset: str, transformers_writes: bool, tmp_path: Path
) -> None:
    sizes = {"num_moe_experts": 4} if FAMILIES[family].mixture_of_experts else {}
    shape = resolve_shape({"preset": preset, "family": family, **sizes})
    config = hugging_face_config(shape, 32000, TokenIds(1, 2, None), "bfloat16")
    folder = write_config(tmp_path, config)
    if transformers_writes:
        transformers = pytest.importorskip("transformers")
        transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
    assert (shape_of(folder), read_model_config(folder)[1]) == (shape, 32000)


@settings(max_examples=100, deadline=None)
@given(
    family=strategies.sampled_from(sorted(FAMILIES)),
    layers=strategies.integers(1, 200),
    groups=strategies.integers(1, 16),
    heads_per_group=strategies.integers(1, 16),
    channels=strategies.integers(1, 128).map(lambda half: 2 * half),
    hidden=strategies.integers(1, 20000),
    experts=strategies.integers(1, 64),
    base=strategies.floats(1, 1e9),
    tied=strategies.booleans(),
    scaling=strategies.none() | strategies.floats(1, 64),
    vocabulary=strategies.integers(1, 300_000),
)
def test_any_shape_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, family: str, layers: int, groups: int, heads_per_group: int,
    channels: int, hidden: int, experts: int, base: float, tied: bool, scaling: float | None, vocabulary: int,
) -> None:  # fmt: skip
    shape = ModelShape(
        family=family, num_layers=layers, hidden_size=hidden, ffn_hidden_size=3 * hidden,
        num_attention_heads=groups * heads_per_group, num_query_groups=groups, kv_channels=channels,
        max_position_embeddings=4096, rotary_base=base, norm_epsilon=1e-6,
        untie_embeddings_and_output_weights=not tied, init_method_std=0.02,
        num_moe_experts=experts if FAMILIES[family].mixture_of_experts else None,
        moe_router_topk=min(2, experts) if FAMILIES[family].mixture_of_experts else 2,
        rope_scaling_factor=scaling, rope_original_max_position_embeddings=2048 if scaling else 8192,
    )  # fmt: skip
    config = hugging_face_config(shape, vocabulary, TokenIds(None, [2, 3], 0), "float32")
    folder = write_config(tmp_path_factory.mktemp("config"), config)
    assert (shape_of(folder), read_model_config(folder)[1]) == (shape, vocabulary)


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, 131072),
        # A window that is wider than the model reads.
        ({"model_type": "mistral", "sliding_window": 1 << 20}, 131072),
        ({"model_type": "mixtral", "sliding_window": 4096}, 4096),
        ({"model_type": "mixtral"}, 131072),
        ({"model_type": "qwen2", "sliding_window": 4096}, 131072),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, 131072),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, 4096),
        ({"model_type": "qwen3", "use_sliding_window": True}, 4096),
        # The class does not read this key.
        ({"model_type": "llama", "sliding_window": 4096}, 131072),
    ],
)
def test_a_sliding_window_bounds_the_sequence(changes: dict[str, Any], longest: int, tmp_path: Path) -> None:
    folder = write(tmp_path, rope_scaling=None, **changes)
    assert read_model_config(folder)[0]["max_position_embeddings"] == longest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported; supported: mistral, llama"),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"model_type": "absent"}, "model_type None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported; supported: 'silu'"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias=True is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
         "rope_parameters: partial_rotary_factor=0.25 is not supported"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layer_types: 'chunked_attention' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling: type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: type 'linear' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type 'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters: type 'longrope' is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "expected one set of parameters"),
        ({"rope_scaling": "llama3"}, "rope_scaling: 'llama3' is not supported; expected one set of parameters"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "rope_scaling: llama3 lacks low_freq_factor"),
        ({"rope_scaling": {**LLAMA["rope_scaling"], "factor": "8"}}, "factor: '8' is not a number of at least 1"),
        ({"rope_scaling": {**LLAMA["rope_scaling"], "low_freq_factor": 4.0}},
         "low_freq_factor: 4 is not less than high_freq_factor=4"),
        ({"rope_theta": "1e6"}, "rope_theta: '1e6' is not a number of at least 1"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings: 'false' is neither true nor false"),
        ({"hidden_size": "absent"}, "key hidden_size is missing"),
        ({"num_hidden_layers": None}, "key num_hidden_layers is missing"),
        ({"rms_norm_eps": "absent"}, "key rms_norm_eps is missing"),
        ({"vocab_size": "absent"}, "key vocab_size is missing"),
        ({"rms_norm_eps": -1}, "rms_norm_eps: -1 is not a number of at least 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000 is not a whole number from 1 to 10,000"),
        ({"hidden_size": 10**12}, "hidden_size: 1000000000000 is not a whole number from 1 to 16,777,216"),
        ({"hidden_size": "4096"}, "hidden_size: '4096' is not a whole number"),
        ({"hidden_size": 4096.0}, "hidden_size: 4096.0 is not a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0 is not a whole number from 1 to 65,536"),
        ({"num_key_value_heads": 10**12}, "num_key_value_heads: 1000000000000 is not a whole number"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: 5 does not divide num_attention_heads=32; nearest that do"),
        ({"head_dim": 127}, "head_dim: 127 is odd"),
        ({"max_position_embeddings": -1}, "max_position_embeddings: -1 is not a whole number"),
        ({"vocab_size": 10**12}, "vocab_size: 1000000000000 is not a whole number from 1 to 2,147,483,647"),
        ({"model_type": "mistral", "rope_scaling": None, "sliding_window": -1}, "sliding_window: -1 is not a whole"),
        ({"model_type": "mixtral", "rope_scaling": None, "num_local_experts": 10**9},
         "num_local_experts: 1000000000 is not a whole number from 1 to 65,536"),
        ({"model_type": "mixtral", "rope_scaling": None, "num_local_experts": 2, "num_experts_per_tok": 3},
         "num_experts_per_tok: 3 is greater than num_local_experts=2"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_rejected_with_the_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in rejected(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "swish"},
        {"attention_bias": False, "mlp_bias": False},
        {"attention_bias": None},
        {"partial_rotary_factor": 1.0},
        {"layer_types": ["full_attention"] * 32},
        {"pretraining_tp": 2, "attention_dropout": 0.1, "use_cache": False, "torch_dtype": "float16"},
    ],
)
def test_what_makes_no_difference_is_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    assert shape_of(write(tmp_path, **changes)) == resolve_shape({"preset": "llama3.1_8b"})


def test_qwen2_has_its_biases_whatever_the_file_says(tmp_path: Path) -> None:
    shapes = [
        shape_of(write(tmp_path, model_type="qwen2", rope_scaling=None, attention_bias=value))
        for value in (True, False, "absent")
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_key_value_heads_that_are_null_are_as_many_as_heads(tmp_path: Path) -> None:
    folder = write(tmp_path, model_type="mistral", rope_scaling=None, num_key_value_heads=None)
    assert shape_of(folder).num_query_groups == 32


def test_a_file_that_is_not_an_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    assert rejected(tmp_path) == "expected a JSON object, found list"
    (tmp_path / "config.json").write_text("{")
    assert rejected(tmp_path).startswith("not valid JSON")


def test_ids_and_type_are_under_the_names_of_every_reader() -> None:
    shape = resolve_shape({"preset": "tiny"})
    config = hugging_face_config(shape, 500, TokenIds(1, [2, 7], None), "bfloat16")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, [2, 7], None)
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["sliding_window"] is None and config["rope_scaling"] is None
    assert "num_local_experts" not in config
    assert hugging_face_config(replace(shape, family="qwen2"), 500, TokenIds(1, 2, 3), "float32")["architectures"] == [
        "Qwen2ForCausalLM"
    ]
    assert generation_config(TokenIds(1, [2, 7], None)) == {
        "do_sample": False, "bos_token_id": 1, "eos_token_id": [2, 7],
    }  # fmt: skip
