from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.training.config import TrainingConfig


def parse(*overrides: str) -> TrainingConfig:
    return load(TrainingConfig, None, list(overrides))


def test_defaults_are_possible() -> None:
    assert parse().ranks() == 1


def test_own_keys_win_over_the_preset() -> None:
    shape = parse("model.preset=tiny", "model.num_layers=6").model.shape()
    assert (shape.num_layers, shape.hidden_size, shape.kv_channels) == (6, 64, 16)


@pytest.mark.parametrize(
    ("overrides", "key", "advice"),
    [
        (["model.hidden_size=250"], "model.hidden_size", "248 or 252"),
        (["model.num_attention_heads=16", "model.num_query_groups=3"], "model.num_query_groups", "2 or 4"),
        (["global_batch_size=10"], "global_batch_size", "8 or 12"),
        (["parallel.tensor_model_parallel_size=3"], "parallel.tensor_model_parallel_size", "2 or 4"),
        (["parallel.pipeline_model_parallel_size=3"], "parallel.pipeline_model_parallel_size", "3 or 6"),
        (["parallel.sequence_parallel=true"], "parallel.sequence_parallel", "needs tensor_model_parallel_size"),
        (["data.seq_length=1024"], "data.seq_length", "above model.max_position_embeddings=512"),
        (["steps=3", "tokens=5"], "tokens", "keep only one"),
        (["nproc=3", "parallel.tensor_model_parallel_size=2"], "nproc", "2 or 4"),
        (["nproc=5"], "global_batch_size", "20"),
        (["precision=fp16"], "precision", "fp32"),
        (["optimizer.min_lr=1"], "optimizer.min_lr", "above lr"),
        (
            ["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2",
             "global_batch_size=12"], "global_batch_size", "8 or 16",
        ),
    ],
)  # fmt: skip
def test_impossible_combinations_name_the_key_and_what_would_do(overrides: list[str], key: str, advice: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(*overrides)
    line = next(line for line in str(caught.value).splitlines() if line.startswith(f"{key}:"))
    assert advice in line


def test_reading_the_section_does_not_import_torch() -> None:
    program = "import sys, megatron_ipt.training.config, megatron_ipt.training.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
