from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.training.objectives.divergence.formulas import FORMULAS

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow


def test_ranks_that_split_the_vocabulary_find_what_one_finds(tmp_path: Path) -> None:
    """With padding at the end, and on a rank that holds nothing but padding; without a word in the backward pass."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, "-m", "tests.training.objectives.divergence.compare_ranks", str(tmp_path / "found.json")],
        env=dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo"), cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["collectives"] == 0
    assert len(found["differences"]) == 2 * (len(FORMULAS) + 4)
    for name, difference in found["differences"].items():
        assert difference < (1e-6 if "32" in name else 1e-14), name
