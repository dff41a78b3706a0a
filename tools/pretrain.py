"""Runs the training stage of a recipe as one of several ranks.

Usage: torchrun --nproc-per-node 8 tools/pretrain.py RECIPE [KEY=VALUE ...]

Also works under ``srun`` with one task per GPU, or as a single process. The first rank writes the manifest, so that
finished training is skipped and later stages find it, as with ``megatron-ipt train``. Exit status 75: saved a
checkpoint and stopped after a signal (USR1, TERM); rerun the same command to resume.
``python -m megatron_ipt.training.ranks.launch`` takes the arguments of torchrun, exits with the status of the ranks,
and forwards USR1 to them.
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
