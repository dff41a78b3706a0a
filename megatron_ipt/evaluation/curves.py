"""Loss and accuracy over training tokens: measures every kept checkpoint in the same way as the last one.

Each checkpoint is exported to a temporary folder in the stage's folder, measured and removed, so disk space is needed
for one copy of the model only. Results are written to ``checkpoints/iter_0000100.json`` immediately, so an interrupted
evaluation does not measure a checkpoint twice.
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
"""Measures the Hugging Face model in a folder: ``perplexity``, ``questions``, ``harness``."""


def measure_once(directory: Path, checkpoint: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Results of ``checkpoint``: read from ``directory`` if an earlier attempt wrote them, else from ``measure()``.

    Returns:
        ``{checkpoint, iteration, tokens, ...}`` and what ``measure`` returned; the model was trained on ``tokens``
        tokens.
    """
    path = _result(directory, checkpoint)
    if path.exists():
        return dict(read_json(path))
    description = ModelFile.read(checkpoint)
    identity = {
        "checkpoint": checkpoint.name,
        "iteration": description.iteration,
        "tokens": description.consumed_tokens,
    }
    point = identity | measure()
    write_json(path, point)
    return point


def measure_checkpoints(
    checkpoints: Path, tokenizer: Path, dtype: str, directory: Path, measure: Measure
) -> dict[str, Any]:
    """Measures every checkpoint that has no results yet, and writes ``curves.json``.

    Args:
        checkpoints: folder with the ``iter_*`` folders of training.
        tokenizer: tokenizer of the exported models.
        dtype: data type of the exported weights, as in ``export.dtype``.
        directory: folder for results, and for one exported model at a time.
        measure: measures one exported model.

    Returns:
        ``{checkpoints: [...]}``, the results of :func:`measure_once`, in training order.

    Raises:
        InputError: there is no checkpoint, or one cannot be read.
    """
    folders = checkpoints_in(checkpoints)
    if not folders:
        raise InputError(f"{checkpoints}: contains no checkpoints to measure")
    todo = [folder for folder in folders if not _result(directory, folder).exists()]
    start = time.monotonic()
    for number, folder in enumerate(todo, 1):
        measure_once(directory, folder, lambda folder=folder: _exported(folder, tokenizer, dtype, directory, measure))  # type: ignore[misc]
        left = duration((len(todo) - number) * (time.monotonic() - start) / number)
        logger.info("curves: %s measured, %d of %d checkpoints, %s left", folder.name, number, len(todo), left)
    curves = {"checkpoints": [read_json(_result(directory, folder)) for folder in folders]}
    write_json(directory / CURVES, curves)
    return curves


def _result(directory: Path, checkpoint: Path) -> Path:
    return directory / FOLDER / f"{checkpoint.name}.json"


def _exported(checkpoint: Path, tokenizer: Path, dtype: str, directory: Path, measure: Measure) -> dict[str, Any]:
    # Hidden and with suffix .tmp, so that the next run removes it if this one is killed.
    with tempfile.TemporaryDirectory(prefix=f".{checkpoint.name}.", suffix=".tmp", dir=directory) as temporary:
        folder = Path(temporary) / "model"
        export_model(checkpoint, folder, dtype=dtype, tokenizer=tokenizer)
        return measure(folder)
