"""The training stage: hands the run to a launcher and returns its counts.

Errors for the user that a rank raises are raised here again with the same message. Rerunning resumes from the last
checkpoint.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE, last_losses
from megatron_ipt.training.objectives.terms import fingerprints as fingerprints_of_terms, load_terms
from megatron_ipt.training.ranks.launcher import Launcher, LocalLauncher


def check(config: TrainingConfig) -> None:
    """Raises what the ranks would raise about the objectives; does nothing where torch or Megatron-Core is missing, as
    on a machine that only runs data stages or submits jobs: custom objectives may import them.

    Raises:
        RecipeError: the code of an objective cannot be imported, or its options are wrong.
    """
    if all(importlib.util.find_spec(name) for name in ("torch", "megatron")):
        load_terms(config.objectives)


def fingerprints(config: TrainingConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files with custom objectives, for the manifest."""
    return fingerprints_of_terms(config.objectives)


def run(config: TrainingConfig, context: StageContext, launcher: Launcher | None = None) -> dict[str, Any]:
    """Trains on ``context.inputs[TOKENS]`` into ``context.directory``.

    Args:
        launcher: starts the ranks; by default on this machine.

    Returns:
        ``steps, tokens, parameters, ranks, precision, interventions, final_loss, valid`` (loss by validation set).

    Raises:
        UserError: as a rank raised it; :class:`~megatron_ipt.training.loop.stop.Checkpointed` if the run was asked to
            stop.
        KeyboardInterrupt: after Ctrl-C, once the ranks have saved and exited.
    """
    check(config)
    context.directory.mkdir(parents=True, exist_ok=True)
    counts = (launcher or LocalLauncher()).launch(config, context)
    return counts | last_losses(context.directory / METRICS_FILE)
