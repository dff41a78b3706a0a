"""The model that is trained is the model that transformers knows by the same name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ipt.models.families import FAMILIES

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def differences(tokens: Path) -> dict[str, dict[str, float]]:
    """In a process of its own: the stand-in for CUDA changes torch."""
    program = Path(__file__).with_name("compare_first_step.py")
    result = subprocess.run(
        [sys.executable, str(program), str(tokens)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_first_loss_and_logits_are_those_of_transformers(family: str, differences: dict[str, dict[str, float]]) -> None:
    found = differences[family]
    assert found["spread"] > 0.5
    assert found["loss"] < 1e-5 and found["logits"] < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_gives_the_trained_model_back(family: str, differences: dict[str, dict[str, float]]) -> None:
    assert differences[family]["reloaded"] < 1e-6
