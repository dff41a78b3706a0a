"""One Slurm for the whole session, and runs of the scripts on it with CPU stand-ins for the GPU work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from megatron_ipt.cluster.slurm.submit import Submission, submit
from megatron_ipt.files import read_json
from megatron_ipt.recipe import Recipe, load_recipe
from tests.cluster.slurm_cluster import SlurmCluster, missing_programs
from tests.conftest import REPOSITORY

OVERRIDES = (
    "output_dir=run",
    "corpus.shard_documents=10",
    "training.steps=24",
    "training.micro_batch_size=2",
    "training.validation.eval_interval=24",
    "training.checkpoint.save_interval=1000",
    "evaluation.generations=1",
    "evaluation.max_new_tokens=5",
)
"""The quickstart cut short; relative paths, so that a copy of a run elsewhere is the same run."""

SITE = f"""
PARTITION=main
TIME=0:10:00
CPUS_PER_TASK=1
MEM=2000M
ARRAY_TASKS=2
TRAINING_GPUS_PER_NODE=2
TRAINING_NODES=1
EVALUATION_GPUS_PER_NODE=1
export PATH={Path(sys.executable).parent}:$PATH
export MEGATRON_IPT_GPUS=0 MEGATRON_IPT_WATCH_SECONDS=1
export GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
"""


@pytest.fixture(scope="session")
def slurm():
    missing = missing_programs()
    if missing:
        pytest.skip(f"no Slurm to start: {', '.join(missing)} not installed")
    if importlib.util.find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed")
    # A short path outside pytest's own: munge's socket may have 107 bytes.
    cluster = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    try:
        cluster.start()
        os.environ.update({name: cluster.environment[name] for name in before})
        yield cluster
    finally:
        cluster.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Run:
    """A recipe being run in a folder of its own."""

    def __init__(self, cluster: SlurmCluster, folder: Path, overrides: tuple[str, ...], site: str):
        self.cluster = cluster
        self.folder = folder
        self.output = folder / "run"
        self.overrides = overrides
        self.site = folder / "site.env"
        self.recipe = folder / "recipe.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        text = (REPOSITORY / "examples/quickstart.yaml").read_text()
        self.recipe.write_text(text.replace("${recipe_dir:}", str(REPOSITORY / "examples")))
        self.site.write_text(SITE + site)

    def submit(self, dry_run: bool = False) -> Submission:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            return submit(self.recipe, self.overrides, self.site, dry_run=dry_run)
        finally:
            os.chdir(before)

    def load(self) -> Recipe:
        return load_recipe(self.recipe, self.overrides)

    def copy_data_from(self, other: Run) -> None:
        """Takes over everything up to the tokens."""
        for stage in ("corpus", "synthesis", "augment", "tokens"):
            shutil.copytree(other.output / stage, self.output / stage)

    def steps(self) -> int:
        """Steps that the training has logged."""
        path = self.output / "training/metrics.jsonl"
        return path.read_text().count('"loss"') if path.exists() else 0

    def wait_for_steps(self, count: int, seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while self.steps() < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.steps()} of {count} steps\n{self.logs()}")
            time.sleep(0.05)

    def manifest(self, stage: str) -> dict:
        return read_json(self.output / stage / "manifest.json")

    def logs(self) -> str:
        paths = sorted((self.output / "slurm/logs").glob("*.out"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in paths)


@pytest.fixture(scope="session")
def make_run(slurm, tmp_path_factory):
    """Makes a :class:`Run`: ``make_run(name, *overrides, site=...)``."""

    def make(name: str, *overrides: str, site: str = "") -> Run:
        return Run(slurm, tmp_path_factory.mktemp(name), (*OVERRIDES, *overrides), site)

    return make


@pytest.fixture(scope="session")
def chain(make_run):
    """The whole chain, submitted and not waited for: training on two nodes, one rank each."""
    run = make_run("chain", site="TRAINING_NODES=2\nTRAINING_GPUS_PER_NODE=1\n")
    return run, run.submit()
