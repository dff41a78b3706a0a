"""A run that is killed again and again is, to the last bit, the run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ipt.training.loop.metrics import read_metrics

from .conftest import SMALL_RUN

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

RUN = (
    *SMALL_RUN, "steps=60", "checkpoint.save_interval=2", "validation.eval_interval=20", "model.num_layers=2",
    "micro_batch_size=4",
)  # fmt: skip
REPOSITORY = Path(__file__).parents[2]


def records(directory: Path) -> list[tuple[object, ...]]:
    return [
        tuple(record.get(name) for name in ("step", "loss", "lr", "grad_norm", "valid", "tokens_by_source"))
        for record in read_metrics(directory / "metrics.jsonl")
    ]


def test_ten_kills_at_random_change_no_bit(tokens: Path, tmp_path: Path) -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
    program = ["-m", "tests.training.kill_loop", str(tmp_path / "killed"), str(tokens), *RUN]
    result = subprocess.run(
        [sys.executable, *program], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["10", "0"], result.stderr[-3000:]
    quiet = (
        "import sys, warnings; warnings.simplefilter('ignore'); from pathlib import Path;"
        "from megatron_ipt.training.cpu import cuda_stand_in; from megatron_ipt.training.ranks import layout;"
        "cuda_stand_in.install(); layout.start_process_group();"
        "from tests.training.driver import run; run(sys.argv[3:], Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", quiet, str(tmp_path / "quiet"), str(tokens), *RUN],
        env=environment, cwd=REPOSITORY, check=True, capture_output=True,
    )  # fmt: skip
    assert len(records(tmp_path / "quiet")) == 63
    assert records(tmp_path / "killed") == records(tmp_path / "quiet")
