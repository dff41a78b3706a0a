"""The training stage: hands the run to a launcher and returns its counts.

Errors for the user that a rank raises are raised here again with the same message. Rerunning resumes from the last
checkpoint.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.loop.metrics import METRICS_FILE, last_losses
from megatron_ipt.training.objectives.terms import fingerprints as fingerprints_of_terms, load_terms
from megatron_ipt.training.ranks.launcher import Launcher, LocalLauncher
from megatron_ipt.training.teacher.source import TeacherSource, check_teacher, check_tokenizers


def check(config: TrainingConfig) -> None:
    """Raises what the ranks would raise about the objectives and a teacher. Objectives are left out where torch or
    Megatron-Core is missing, as on a machine that only runs data stages or submits jobs: custom ones may import them.

    Raises:
        InputError: the teacher cannot be read.
        RecipeError: the code of an objective cannot be imported, its options are wrong, or the teacher does not fit.
    """
    if all(importlib.util.find_spec(name) for name in ("torch", "megatron")):
        load_terms(config.objectives, config.distillation)
    if config.distillation.is_on:
        check_teacher(TeacherSource.read(config.distillation.teacher), config.distillation.teacher, config.seq_length())


def fingerprints(config: TrainingConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files with custom objectives and of the teacher, for the manifest."""
    teacher = TeacherSource.read(config.distillation.teacher).fingerprints() if config.distillation.is_on else []
    return [*fingerprints_of_terms(config.objectives), *teacher]


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
    if config.distillation.is_on:
        check_tokenizers(TeacherSource.read(config.distillation.teacher), context.inputs[TOKENS])
    context.directory.mkdir(parents=True, exist_ok=True)
    counts = (launcher or LocalLauncher()).launch(config, context)
    return counts | last_losses(context.directory / METRICS_FILE)
