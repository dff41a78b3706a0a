from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.models.hugging_face import read_model_config
from megatron_ipt.training.config import TrainingConfig

LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    values = {name: value for name, value in {**LLAMA, **changes}.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_llama_with_scaled_rotary_embedding_is_the_preset(tmp_path: Path) -> None:
    config = load(TrainingConfig, None, [f"model.from_hf={write(tmp_path)}", "data.seq_length=2048"])
    preset = load(TrainingConfig, None, ["model.preset=llama3.1_8b", "data.seq_length=2048"])
    assert config.model.shape() == preset.model.shape()
    assert config.model.hugging_face_weights() == tmp_path
    assert round(config.model.shape().parameters(128256) / 1e6) == 8030


def test_naming_the_file_takes_the_sizes_alone(tmp_path: Path) -> None:
    config = load(TrainingConfig, None, [f"model.from_hf={write(tmp_path)}/config.json", "model.num_layers=2"])
    assert (config.model.shape().num_layers, config.model.hugging_face_weights()) == (2, None)


def test_form_of_transformers_5(tmp_path: Path) -> None:
    new = {**LLAMA["rope_scaling"], "rope_theta": 500000.0}  # type: ignore[dict-item]
    folder = write(tmp_path, rope_scaling="absent", rope_theta="absent", rope_parameters=new)
    assert read_model_config(folder)[0]["rope_scaling_factor"] == 8.0
    assert read_model_config(folder)[0]["rotary_base"] == 500000.0


def test_sliding_window_bounds_the_sequence(tmp_path: Path) -> None:
    folder = write(tmp_path, model_type="mistral", rope_scaling=None, sliding_window=4096)
    assert read_model_config(folder)[0]["max_position_embeddings"] == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported; supported: mistral, llama"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rotary scaling of type 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "llama3 lacks low_freq_factor"),
        ({"hidden_size": "absent"}, "key hidden_size is missing"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        read_model_config(write(tmp_path, **changes))
    assert message in str(caught.value)


def test_missing_folder_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.from_hf: .*nowhere"):
        load(TrainingConfig, None, [f"model.from_hf={tmp_path}/nowhere"])
