"""The training stage of a recipe, as one rank of many.

Usage: torchrun --nproc-per-node 8 tools/pretrain.py RECIPE [KEY=VALUE ...]

Also under ``srun`` with a task for each GPU, or alone. The first rank keeps the manifest, so that a finished training
is skipped and the later stages find it, as with ``megatron-ipt train``. Exit status 75: saved and stopped because a
signal asked for it (USR1, TERM); the same command continues. ``python -m megatron_ipt.training.ranks.launch`` takes the
arguments of torchrun, ends with the status of the ranks, and passes USR1 on to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_ipt.errors import UserError
from megatron_ipt.extensions import load_registered_extensions
from megatron_ipt.manifest import read_manifest
from megatron_ipt.pipeline import context_of, run_one
from megatron_ipt.progress import configure_logging
from megatron_ipt.recipe import load_recipe
from megatron_ipt.stages import stage_named
from megatron_ipt.training.ranks.layout import Layout, rank_and_world
from megatron_ipt.training.ranks.worker import ThisProcess, train


def main(arguments: list[str]) -> int:
    """Trains; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    rank, world_size, _ = rank_and_world()
    configure_logging(first_rank=rank == 0)
    try:
        load_registered_extensions()
        recipe = load_recipe(arguments[0], arguments[1:])
        Layout.of(recipe.training, world_size)
        stage = stage_named("training")
        if rank == 0:
            run_one(stage, recipe, launcher=ThisProcess())
            return 0
        context = context_of(stage, recipe)
        manifest = read_manifest(context.directory)
        if manifest is None or manifest["status"] != "complete":
            train(recipe.training, context)
    except UserError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
