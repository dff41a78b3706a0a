"""Trains with losses that are made to go wrong at one batch: ``wrong_losses.py ROOT TOKENS``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from megatron_ipt.errors import StageError
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.ranks import layout
from tests.training import driver
from tests.training.conftest import SMALL_RUN

BAD_POSITION = 12 * 8
"""The batch of the thirteenth step."""


def main(root: Path, tokens: Path) -> None:
    from megatron_ipt.training.loop.trainer import Trainer

    exchange = Trainer._exchange

    def spoiled(trainer: Trainer, *arguments: object) -> tuple[bool, bool]:
        outcome = exchange(trainer, *arguments)  # type: ignore[arg-type]
        if trainer.state.position == BAD_POSITION:
            trainer.loss = trainer.loss + 3 if "spike" in str(trainer.context.directory) else float("nan")
        return outcome

    Trainer._exchange = spoiled  # type: ignore[method-assign]
    run = [*SMALL_RUN, "steps=20", "checkpoint.keep_last=0", "logging.tensorboard=false"]
    for name, *overrides in (
        ("skip", "anomalies.non_finite=skip"),
        ("rollback", "anomalies.non_finite=rollback"),
        ("spike-skip", "anomalies.spike=skip", "anomalies.spike_window=10"),
        ("spike-ignored",),
        ("stop",),
        ("rollback-without-checkpoint", "anomalies.non_finite=rollback", "checkpoint.save_interval=50"),
    ):
        try:
            driver.run([*run, *overrides], root / name, tokens)
        except StageError as error:
            (root / name / "error.txt").write_text(str(error))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
