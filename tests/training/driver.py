"""Runs several trainings one after the other in one set of ranks: starting processes costs more than training does.

``driver.py JOBS.json``, alone or under torchrun. A job is ``{"overrides", "directory", "tokens"}`` and may first
``copy`` the folder of an earlier one, set its ``tracker``, or ``flip`` one bit of a file; an error that users see is
left in ``error.txt``.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.config import load
from megatron_ipt.errors import UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.loop.stop import StopRequest
from megatron_ipt.training.ranks import layout


def run(overrides: list[str], directory: Path, tokens: Path) -> object:
    """Trains in this process; gives the trainer."""
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer

    config = load(TrainingConfig, None, overrides)
    layout.start_model_parallel(config)
    directory.mkdir(parents=True, exist_ok=True)
    context = StageContext("training", directory, seed=17, inputs={TOKENS: tokens})
    try:
        trainer = Trainer(config, context, StopRequest())
        trainer.run()
    finally:
        parallel_state.destroy_model_parallel()
    return trainer


def prepare(job: dict[str, Any], directory: Path) -> None:
    if "copy" in job:
        shutil.copytree(job["copy"], directory)
    if "tracker" in job:
        (directory / "checkpoints/latest_checkpointed_iteration.txt").write_text(job["tracker"])
    if "flip" in job:
        path = sorted(directory.glob(job["flip"]))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(job["directory"])
        if torch.distributed.get_rank() == 0:
            prepare(job, folder)
        torch.distributed.barrier()
        try:
            run(job["overrides"], folder, Path(job["tokens"]))
        except UserError as error:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
