"""The training stage: hands the run to a launcher and returns its counts.

Errors for the user that a rank raises are raised here again with the same message. Rerunning resumes from the last
checkpoint.
"""

from __future__ import annotations

from typing import Any

from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE, last_losses
from megatron_ipt.training.ranks.launcher import Launcher, LocalLauncher


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
    context.directory.mkdir(parents=True, exist_ok=True)
    counts = (launcher or LocalLauncher()).launch(config, context)
    return counts | last_losses(context.directory / METRICS_FILE)
