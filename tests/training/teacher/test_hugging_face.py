"""A teacher's weights straight from a Hugging Face folder, for every family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.models.families import FAMILIES
from tests.conftest import REPOSITORY

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytest.importorskip("transformers")


@pytest.mark.slow
def test_what_is_read_is_what_an_import_writes(tmp_path: Path) -> None:
    """In several files for one of the families; biases, norms of queries and keys, experts, tied embeddings."""
    from megatron_ipt.convert.importer import import_checkpoint
    from tests.convert.models import save

    pairs = []
    for family in FAMILIES:
        tied = {"tie_word_embeddings": family in ("qwen2", "qwen3")}
        shards = {"max_shard_size": "20KB"} if family == "llama" else {}
        folder = save(tmp_path / family, family, **shards, **tied)
        assert family != "llama" or len(list(folder.glob("*.safetensors"))) > 1
        import_checkpoint(folder, tmp_path / f"{family}-imported")
        pairs.append([str(folder), str(tmp_path / f"{family}-imported")])
    (tmp_path / "job.json").write_text(json.dumps(pairs))
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.teacher.compare_loading", str(tmp_path / "job.json")],
        env=dict(os.environ, OMP_NUM_THREADS="1", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"), cwd=REPOSITORY,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    compared = json.loads(result.stdout.splitlines()[-1])
    assert len(compared) == len(FAMILIES) and min(compared) > 10


def test_files_that_are_not_those_of_the_model(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from megatron_ipt.training.teacher.hugging_face import open_weights, weight_files

    with pytest.raises(InputError, match=r"has neither model.safetensors nor .*; convert the model with `megatron-ipt"):
        weight_files(tmp_path)
    save_file({"lm_head.weight": torch.zeros(5, 3)}, tmp_path / "model.safetensors")
    with ExitStack() as stack:
        with pytest.raises(InputError, match=r"lacks b and 1 more tensors, which its config.json asks for"):
            open_weights(tmp_path, {"lm_head.weight": (5, 3), "b": (1,), "c": (1,)}, stack)
        with pytest.raises(InputError, match=r"lm_head.weight has shape \[5, 3\], config.json says \[6, 3\]"):
            open_weights(tmp_path, {"lm_head.weight": (6, 3)}, stack)
        (tmp_path / "model.safetensors").write_bytes(b"not a model")
        with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
            open_weights(tmp_path, {}, stack)
