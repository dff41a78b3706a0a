"""Metrics of a run: ``metrics.jsonl``, ``events.jsonl``, TensorBoard, W&B and the progress bar, all written by rank 0.

A line of ``metrics.jsonl`` is a step, with ``loss`` and, if objectives have any, ``metrics`` by name; or a validation,
with ``valid``, the loss by validation set, and ``valid_metrics``, by set and name. A resumed run continues the file:
lines of steps that will be repeated are removed first, so every step appears once.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import orjson

from megatron_ipt.errors import RecipeError, StorageError
from megatron_ipt.files import atomic_open
from megatron_ipt.progress import Progress

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Complete lines of a metrics file; a last line truncated by a crash is skipped."""
    if not path.exists():
        return
    with open(path, "rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def last_losses(path: Path) -> dict[str, Any]:
    """Last training loss and last validation losses of a metrics file: ``{final_loss, valid}``."""
    losses: dict[str, Any] = {"final_loss": None, "valid": {}}
    for record in read_metrics(path):
        if "valid" in record:
            losses["valid"] = record["valid"]
        else:
            losses["final_loss"] = record["loss"]
    return losses


def cut_after(path: Path, step: int) -> None:
    """Removes the lines of ``path`` for steps after ``step``."""
    if path.exists():
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        with atomic_open(path) as stream:
            stream.writelines(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in kept)


class Metrics:
    """Writer of a run's metrics.

    Args:
        directory: folder of the stage, for ``metrics.jsonl``, ``events.jsonl`` and ``tensorboard/``.
        first_step: the last step that is already done.
        steps: total number in the run.
        settings: configuration of the run, for W&B.

    Raises:
        RecipeError: W&B is requested but not installed.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        steps: int,
        tensorboard: bool,
        wandb_project: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        path = directory / METRICS_FILE
        cut_after(path, first_step)
        self._path = path
        self._stream: IO[bytes] = open(path, "ab")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(directory / "tensorboard"), purge_step=first_step + 1 if first_step else None
            )
        self._events = directory / EVENTS_FILE
        self._wandb = _start_wandb(wandb_project, directory, settings) if wandb_project else None
        self._progress = Progress("training", steps, "steps", initial=first_step)

    def __enter__(self) -> Metrics:
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.__exit__(*exception)
        self._stream.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def advance(self, loss: float) -> None:
        """Advances the progress bar by one step."""
        self._progress.advance(1, loss=loss)

    def log_step(self, record: dict[str, Any]) -> None:
        """Writes the metrics of a step, including ``step`` itself; a value may be a dict of numbers."""
        self._write(record)
        self._chart("train", record, record["step"])

    def log_validation(
        self, step: int, losses: dict[str, float], metrics: dict[str, dict[str, float]] | None = None
    ) -> None:
        """Writes the losses and metrics of a validation, by set, and logs the losses."""
        self._write({"step": step, "valid": losses} | ({"valid_metrics": metrics} if metrics else {}))
        self._chart("valid", losses, step)
        if metrics:
            self._chart("valid", metrics, step)
        logger.info(
            "step %d, validation loss: %s", step, ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        )

    def log_event(self, step: int, kind: str, **details: Any) -> None:
        """Writes an unusual event to ``events.jsonl`` and to the log."""
        record = {"step": step, "event": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **details}
        with open(self._events, "ab") as stream:
            stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        logger.warning("step %d, %s: %s", step, kind, ", ".join(f"{name} {value}" for name, value in details.items()))

    def go_back(self, step: int) -> None:
        """Removes the lines after ``step``, from which training continues."""
        self._stream.close()
        cut_after(self._path, step)
        self._stream = open(self._path, "ab")
        self._progress.advance(step - self._progress.done)

    def _chart(self, group: str, record: dict[str, Any], step: int) -> None:
        values: dict[str, float] = {}
        for name, value in record.items():
            if isinstance(value, dict):
                values |= {f"{group}/{name}/{part}": number for part, number in value.items()}
            elif name != "step" and isinstance(value, (int, float)):
                values[f"{group}/{name}"] = value
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            self._stream.flush()
        except OSError as error:
            raise StorageError(f"{self._path}: could not be written: {error.strerror or error}") from error


def _start_wandb(project: str, directory: Path, settings: dict[str, Any] | None) -> Any:
    """Starts or resumes the W&B run, whose id is stored next to the metrics."""
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError as error:
        raise RecipeError(
            "training.logging.wandb_project: wandb is not installed; pip install wandb, or leave the key empty"
        ) from error
    path = directory / "wandb-id.txt"
    if not path.exists():
        path.write_text(uuid4().hex[:8])
    return wandb.init(project=project, id=path.read_text(), resume="allow", dir=str(directory), config=settings)
