"""Runs of a comparison: every variant with every seed, each an ordinary ``megatron-ipt run`` in a separate process.

Finished stages are skipped, so rerunning the command resumes an interrupted comparison. All variants of a seed run
before the next seed, so after the first seed there is one result per variant.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.comparison.config import ComparisonConfig
from megatron_ipt.errors import StageError
from megatron_ipt.files import atomic_open
from megatron_ipt.pipeline import folder_of, status_of
from megatron_ipt.progress import Progress, duration
from megatron_ipt.recipe import Recipe, load_recipe
from megatron_ipt.stages import CHECKPOINTS
from megatron_ipt.training.loop.metrics import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LOG_LINES = 15


@dataclass(frozen=True)
class Run:
    """One variant with one seed.

    Attributes:
        command: command line arguments of ``megatron-ipt``.
    """

    arm: str
    seed: int
    recipe: Recipe
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.recipe.output_dir)

    @property
    def finished(self) -> bool:
        return all(row["status"] == "complete" for row in status_of(self.recipe))

    @property
    def steps_done(self) -> int:
        steps = [int(record["step"]) for record in read_metrics(folder_of(self.recipe, CHECKPOINTS) / METRICS_FILE)]
        return max(steps, default=0)


def runs_of(config: ComparisonConfig, folder: Path) -> list[Run]:
    """All runs, in order; writes the common recipe that their commands use.

    Raises:
        RecipeError: a recipe is invalid.
    """
    import yaml

    common = folder / "recipe.yaml"
    with atomic_open(common) as stream:
        stream.write(yaml.safe_dump(config.recipe, sort_keys=False, allow_unicode=True).encode())
    runs = []
    for seed in config.seeds:
        for arm, overrides in config.arms.items():
            name = f"{arm}-{seed}"
            settings = (*overrides, f"name={name}", f"output_dir={folder / 'runs' / name}", f"seed={seed}")
            runs.append(Run(arm, seed, load_recipe(common, settings), ("run", str(common), *settings)))
    return runs


def run_all(runs: list[Run], processes: int) -> None:
    """Runs all unfinished runs, ``processes`` at a time.

    Raises:
        StageError: a run failed; the others were stopped, and resume with the next call.
    """
    waiting = [run for run in runs if not run.finished]
    total = sum(run.recipe.training.steps or 0 for run in waiting)
    logger.info("%d of %d runs left, %s training steps in total", len(waiting), len(runs), f"{total:,}")
    working: list[tuple[Run, subprocess.Popen[bytes], float]] = []
    done = 0
    with Progress("compare", total, "steps") as bar:
        try:
            while waiting or working:
                while waiting and len(working) < processes:
                    run = waiting.pop(0)
                    working.append((run, _start(run, processes), time.monotonic()))
                time.sleep(_POLL_SECONDS)
                for entry in list(working):
                    run, process, began = entry
                    if process.poll() is None:
                        continue
                    if process.returncode:
                        raise StageError(_failure(run, process.returncode))
                    working.remove(entry)
                    done += run.recipe.training.steps or 0
                    logger.info("%s done in %s", run.name, duration(time.monotonic() - began))
                now = done + sum(run.steps_done for run, _, _ in working)
                bar.advance(now - bar.done, running=", ".join(run.name for run, _, _ in working))
        finally:
            for _, process, _ in working:
                process.terminate()
            for _, process, _ in working:
                process.wait()


def _start(run: Run, processes: int) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with open(_log(run), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "megatron_ipt", *run.command],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )


def _log(run: Run) -> Path:
    return run.folder / "log.txt"


def _failure(run: Run, status: int) -> str:
    tail = _log(run).read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return f"{run.name} failed with status {status}; last lines of {_log(run)}:\n" + "\n".join(tail)
