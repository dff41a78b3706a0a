"""Which checkpoint folder is meant, and whether it is complete."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.convert.checkpoint.reader import BACKEND, METADATA
from megatron_ipt.errors import InputError
from megatron_ipt.training.checkpoints.model_file import (
    MODEL_FILE,
    RELEASE,
    TRACKER,
    iteration_folder,
    latest_checkpoint,
)


def find_checkpoint(path: Path, iteration: int | None = None) -> Path:
    """The complete checkpoint folder that ``path`` means: itself, or the one of ``iteration`` or of the tracker in it.

    Raises:
        InputError: there is none, or it is still being written.
    """
    if (path / METADATA).is_file() or path.name.startswith("iter_") or path.name == RELEASE:
        return _complete(path)
    if iteration is not None:
        folder = iteration_folder(path, iteration)
        if not folder.is_dir():
            raise InputError(f"export.iteration: {folder} does not exist; checkpoints there: {_present(path)}")
        return _complete(folder)
    latest = latest_checkpoint(path)
    if latest is None:
        raise InputError(f"{path}: no complete checkpoint: {TRACKER} is missing; folders there: {_present(path)}")
    return _complete(latest)


def _present(path: Path) -> str:
    if not path.is_dir():
        return "no such folder"
    names = [*sorted(entry.name for entry in path.glob("iter_*")), *(entry.name for entry in path.glob(RELEASE))]
    return ", ".join(names) or "none"


def _complete(folder: Path) -> Path:
    """Rejects what a training is still writing: the metadata comes last, and the tracker after it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for name in (METADATA, BACKEND):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: not a complete distributed checkpoint: {name} is missing. It is written last: a training "
                "may still be writing, or was interrupted while writing."
            )
    tracker = folder.parent / TRACKER
    number = folder.name.removeprefix("iter_")
    if not (folder / MODEL_FILE).is_file() and number.isdigit() and tracker.is_file():
        text = tracker.read_text().strip()
        if text.isdigit() and int(text) < int(number):
            raise InputError(f"{folder}: is being written: {tracker.name} still names iteration {text}")
    return folder
