"""The recipe section training.model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.models.config import ModelConfig, hugging_face_vocabulary

CONFIG = {
    "model_type": "llama", "vocab_size": 500, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}  # fmt: skip


def parse(*overrides: str) -> ModelConfig:
    return load(ModelConfig, None, list(overrides))


def write(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_own_keys_win_over_the_preset() -> None:
    shape = parse("preset=tiny", "num_layers=6").shape()
    assert (shape.family, shape.num_layers, shape.hidden_size, shape.kv_channels) == ("mistral", 6, 64, 16)


def test_sizes_and_weights_of_a_hugging_face_folder(tmp_path: Path) -> None:
    config = parse(f"from_hf={write(tmp_path)}")
    assert (config.shape().num_layers, config.shape().family) == (3, "llama")
    assert config.hugging_face_weights() == tmp_path
    assert hugging_face_vocabulary(str(tmp_path)) == 500


def test_naming_the_file_takes_the_sizes_only(tmp_path: Path) -> None:
    config = parse(f"from_hf={write(tmp_path)}/config.json", "num_layers=2")
    assert (config.shape().num_layers, config.hugging_face_weights()) == (2, None)


def test_a_missing_folder_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"from_hf: .*nowhere"):
        parse(f"from_hf={tmp_path}/nowhere")


def test_a_file_that_cannot_be_built_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"from_hf: .*config\.json: num_hidden_layers: 1000000000 is not a whole"):
        parse(f"from_hf={write(tmp_path, num_hidden_layers=10**9)}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hidden_size=250"], "hidden_size: 250 is not divisible by num_attention_heads=4; nearest that are: 248 or"),
        (["num_attention_heads=8", "num_query_groups=3"], "num_query_groups: 3 does not divide num_attention_heads=8"),
        (["num_attention_heads=0"], "num_attention_heads: 0 is not a whole number from 1 to 65,536"),
        (["num_attention_heads=-4"], "num_attention_heads: -4 is not a whole number"),
        (["num_attention_heads=1000000000000"], "num_attention_heads: 1000000000000 is not a whole number"),
        (["num_layers=1000000000"], "num_layers: 1000000000 is not a whole number from 1 to 10,000"),
        (["hidden_size=0"], "hidden_size: 0 is not a whole number"),
        (["rotary_base=.nan"], "rotary_base: NaN is not allowed"),
        (["norm_epsilon=.inf"], "norm_epsilon: inf is not a number"),
        (["kv_channels=15"], "kv_channels: 15 is odd"),
        (["family=mixtral"], "num_moe_experts: family mixtral has experts; set their number"),
        (["preset=tiny_moe", "moe_router_topk=9"], "moe_router_topk: 9 is greater than num_moe_experts=4"),
        (["num_moe_experts=4"], "num_moe_experts: family mistral has no experts; families that do: mixtral"),
        (["family=lama"], "family: 'lama' is not one of mistral, llama"),
        (["preset=huge"], "preset: 'huge' is not one of tiny, small"),
    ],
)  # fmt: skip
def test_impossible_sizes_name_the_key(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(*overrides)
    assert any(line.startswith(message) for line in str(caught.value).splitlines())
    # Each is said once.
    keys = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert len(keys) == len(set(keys))


def test_whether_a_shape_can_be_asked_for(tmp_path: Path) -> None:
    assert ModelConfig().is_readable()
    assert not ModelConfig(preset="huge").is_readable()
    assert not ModelConfig(from_hf=f"{tmp_path}/nowhere").is_readable()
    assert not ModelConfig(num_attention_heads=0).is_readable()
