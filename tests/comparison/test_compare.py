"""The whole of a comparison, small, through the command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_ipt.files import read_json
from tests.comparison.test_data import EXAMPLE, files
from tests.conftest import REPOSITORY

__all__ = ["files"]


@pytest.mark.slow
def test_two_arms_are_trained_on_as_many_tokens_and_a_second_call_runs_nothing(files, tmp_path):
    tasks, text = files
    example = EXAMPLE.read_text()
    start, end = example.index("  gold: "), example.index("  mined: ")
    path = tmp_path / "comparison.yaml"
    path.write_text(example[:start] + example[end:])
    command = [
        sys.executable, "-m", "megatron_ipt", "compare", path, f"tasks=[{tasks}]", f"text=[{text}]",
        f"output_dir={tmp_path / 'out'}", "vocab_size=400", "seeds=[5]", "recipe.training.steps=2",
        "recipe.training.model.max_position_embeddings=64",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    results = read_json(tmp_path / "out/results.json")
    (vanilla,), (mined,) = (results["arms"][arm]["runs"] for arm in ("vanilla", "mined"))
    assert vanilla["tokens"] == mined["tokens"] == 2 * 4 * 64
    assert vanilla["questions"] == mined["questions"] == results["data"]["held_out_questions"]
    assert vanilla["answer_loss"] != mined["answer_loss"]
    assert "per seed" in result.stdout
    assert (tmp_path / "out/results.png").stat().st_size > 1000

    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "0 of 2 runs left" in again.stderr
    assert read_json(tmp_path / "out/results.json") == results
