"""``tools/pretrain.py`` under the launcher, as a job script starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ipt.errors import CHECKPOINTED_STATUS
from megatron_ipt.manifest import read_manifest
from megatron_ipt.training.loop.metrics import read_metrics

from .conftest import SMALL_RUN

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]


def test_saves_and_says_so_when_the_scheduler_asks(tokens: Path, tmp_path: Path) -> None:
    shutil.copytree(tokens, tmp_path / "run/tokens")
    manifest = {"stage": "tokens", "status": "complete", "inputs": [], "settings": {}, "counts": {}}
    (tmp_path / "run/tokens/manifest.json").write_text(json.dumps(manifest))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output_dir: {tmp_path / 'run'}\ncorpus:\n  inputs: [unused]\n")
    launch = ["-m", "megatron_ipt.training.ranks.launch", "--standalone", "--nproc-per-node=2", "tools/pretrain.py"]
    overrides = [f"training.{override}" for override in (*SMALL_RUN, "steps=3000")]
    process = subprocess.Popen(
        [sys.executable, *launch, str(recipe), *overrides],
        env=dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo"), cwd=REPOSITORY, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    training = tmp_path / "run/training"
    deadline = time.monotonic() + 60
    while len(list(read_metrics(training / "metrics.jsonl"))) < 3:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, message = process.communicate(timeout=60)
    assert process.returncode == CHECKPOINTED_STATUS, message
    last = max(record["step"] for record in read_metrics(training / "metrics.jsonl"))
    assert int((training / "checkpoints/latest_checkpointed_iteration.txt").read_text()) == last
    assert f"rank 0: training: stopped as asked at step {last} of 3000" in message
    assert (read_manifest(training) or {})["status"] == "failed"
