"""Scores under Megatron-Core by central differences are those under transformers by forward mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("megatron.core")

from transformers import AutoModelForCausalLM

from megatron_ipt.convert.commands import import_model
from megatron_ipt.selection.pds.central_differences import CentralDifferences
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import token_losses_of
from megatron_ipt.selection.pds.problem import Calculus
from tests.conftest import REPOSITORY
from tests.convert.models import save
from tests.selection.pds import solve_megatron


@pytest.mark.slow
def test_scores_do_not_depend_on_who_computes_the_model(tmp_path: Path) -> None:
    save(tmp_path / "hf", "llama", initializer_range=0.05)
    import_model(tmp_path / "hf", tmp_path / "checkpoints")
    result = subprocess.run(
        [sys.executable, solve_megatron.__file__, str(tmp_path / "checkpoints")],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = np.array(json.loads(result.stdout.splitlines()[-1]))

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager")
    theta = {name: parameter.detach() for name, parameter in model.named_parameters()}
    problem, examples = solve_megatron.problem(token_losses_of(model))

    def error(calculus: Calculus) -> float:
        expected = np.array(solve_megatron.scores(calculus, theta, examples))
        assert expected.std() > 0.5
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    # The first is the error of central differences, the second that of another implementation of the model.
    assert error(ForwardMode(problem)) < 4e-3
    assert error(CentralDifferences(problem)) < 5e-4
