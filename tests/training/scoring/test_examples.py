"""The programs on the page about scoring with a checkpoint run as they are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.test_documentation import fenced

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="scoring needs Megatron-Core")
pytestmark = pytest.mark.slow

PROGRAMS = [program for _, program in fenced(REPOSITORY / "docs/scoring_megatron.md", "python")]
SHOWN = "runs/quickstart/training/checkpoints"


@pytest.mark.parametrize(("program", "prints"), zip(PROGRAMS, ["nats per token", "tokens=3"], strict=True))
def test_programs_that_are_shown_run(
    program: str, prints: str, models: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    assert SHOWN in program
    result = subprocess.run(
        [sys.executable, "-c", program.replace(SHOWN, str(models("llama")[1]))],
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY)), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert len([line for line in result.stdout.splitlines() if prints in line]) >= 1
