"""First process of a training job.

    python -m megatron_ipt.cluster.watch.training_job RECIPE [KEY=VALUE]... -- COMMAND...

Runs the training stage with ``COMMAND`` instead of a local torchrun. Everything else is as in ``megatron-ipt train``:
inputs are checked, output of another recipe is refused, the manifest records what was done. Exit status 75 asks the
batch script to requeue. Needs no torch, so it runs on the host, outside any container.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from megatron_ipt.cluster.slurm import commands as slurm
from megatron_ipt.cluster.slurm.submissions import FOLDER
from megatron_ipt.cluster.watch.lease import Holder, Lease
from megatron_ipt.cluster.watch.rank_group import RankGroup
from megatron_ipt.errors import RecipeError, StageError, UserError
from megatron_ipt.locks import locked
from megatron_ipt.pipeline import run_one
from megatron_ipt.progress import configure_logging
from megatron_ipt.recipe import Recipe, load_recipe
from megatron_ipt.stages import stage_named

logger = logging.getLogger(__name__)

_SECONDS_FOR_LOCK = 120.0
_SEPARATOR = "--"


def train(recipe: Recipe, command: list[str]) -> None:
    """Runs the training stage of ``recipe`` with ``command``, holding the lease.

    Raises:
        UserError: see :class:`~megatron_ipt.cluster.watch.rank_group.RankGroup`.
    """
    output = Path(recipe.output_dir).absolute()
    holder = Holder.of_this_process()
    lease = Lease(output / ".training.lease", holder, _runs)
    # Handlers are installed before the first wait: USR1 during it means requeue immediately.
    group = RankGroup(
        command,
        output / FOLDER / f"training-{holder.job}-{holder.restart}".replace(" ", "-"),
        lease.renew,
        60 * float(os.environ.get("MEGATRON_IPT_STALL_MINUTES", 30)),
    )
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _asking(group))
    story = lease.acquire()
    if story:
        logger.warning("training: %s", story)
    try:
        _wait_for_lock(output)
        run_one(stage_named("training"), recipe, launcher=group)
    finally:
        lease.release()


def _asking(group: RankGroup) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        group.ask_to_stop()

    return handle


def _runs(job: str) -> bool:
    return any(state.state in slurm.ACTIVE - {"PENDING"} for state in slurm.states_of([job]))


def _wait_for_lock(output: Path) -> None:
    """A dead node's file locks outlive it for as long as the file server waits for it."""
    end = time.monotonic() + _SECONDS_FOR_LOCK
    while True:
        try:
            with locked(output / ".training.lock", output / "training"):
                return
        except StageError:
            if time.monotonic() > end:
                raise
        time.sleep(1)


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    configure_logging()
    try:
        if _SEPARATOR not in arguments[1:]:
            raise RecipeError(
                "usage: python -m megatron_ipt.cluster.watch.training_job RECIPE [KEY=VALUE]... -- COMMAND..."
            )
        cut = arguments.index(_SEPARATOR)
        train(load_recipe(arguments[0], arguments[1:cut]), arguments[cut + 1 :])
    except UserError as error:
        logger.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
