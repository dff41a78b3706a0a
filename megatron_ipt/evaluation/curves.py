"""Loss and accuracy against tokens seen: every kept checkpoint of a training, measured as the last one is.

Each checkpoint is exported into a temporary folder beside the results, measured and removed, so that only one copy of
the model needs room. What is measured of it goes to ``checkpoints/iter_0000100.json`` at once, so an interrupted
evaluation measures no checkpoint twice.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ipt.convert.commands import export_model
from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.output_files import CURVES
from megatron_ipt.files import read_json, write_json
from megatron_ipt.progress import duration
from megatron_ipt.training.checkpoints.model_file import ModelFile, checkpoints_in

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"

Measure = Callable[[Path], dict[str, Any]]
"""Figures (``perplexity``, ``questions``, ``harness``) of the Hugging Face model in a folder."""


def measured_once(directory: Path, checkpoint: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of ``checkpoint``: those that an earlier attempt left in ``directory``, else of ``measure()``.

    Returns:
        ``{checkpoint, iteration, tokens, ...figures}``; the model was trained on ``tokens`` tokens.
    """
    path = _result(directory, checkpoint)
    if path.exists():
        return dict(read_json(path))
    description = ModelFile.read(checkpoint)
    place = {
        "checkpoint": checkpoint.name,
        "iteration": description.iteration,
        "tokens": description.consumed_tokens,
    }
    point = place | measure()
    write_json(path, point)
    return point


def measure_checkpoints(
    checkpoints: Path, tokenizer: Path, dtype: str, directory: Path, measure: Measure
) -> dict[str, Any]:
    """Measures every checkpoint that is not measured yet, and writes ``curves.json``.

    Args:
        checkpoints: the training's folder of ``iter_*`` folders.
        tokenizer: of the exported models.
        dtype: of their weights, as in ``export.dtype``.
        directory: for results, and for one export at a time.
        measure: what to do with each.

    Returns:
        ``{checkpoints: [...]}``, what :func:`measured_once` returns of each, in the order of training.

    Raises:
        InputError: there is no checkpoint, or one cannot be read.
    """
    folders = checkpoints_in(checkpoints)
    if not folders:
        raise InputError(f"{checkpoints}: holds no checkpoints to measure")
    todo = [folder for folder in folders if not _result(directory, folder).exists()]
    start = time.monotonic()
    for number, folder in enumerate(todo, 1):
        measured_once(directory, folder, lambda folder=folder: _exported(folder, tokenizer, dtype, directory, measure))  # type: ignore[misc]
        left = duration((len(todo) - number) * (time.monotonic() - start) / number)
        logger.info("curves: %s measured, %d of %d checkpoints, %s left", folder.name, number, len(todo), left)
    curves = {"checkpoints": [read_json(_result(directory, folder)) for folder in folders]}
    write_json(directory / CURVES, curves)
    return curves


def _result(directory: Path, checkpoint: Path) -> Path:
    return directory / FOLDER / f"{checkpoint.name}.json"


def _exported(checkpoint: Path, tokenizer: Path, dtype: str, directory: Path, measure: Measure) -> dict[str, Any]:
    # The name is that of a temporary folder, which the next run removes if this one is killed.
    with tempfile.TemporaryDirectory(prefix=f".{checkpoint.name}.", suffix=".tmp", dir=directory) as temporary:
        folder = Path(temporary) / "model"
        export_model(checkpoint, folder, dtype=dtype, tokenizer=tokenizer)
        return measure(folder)
