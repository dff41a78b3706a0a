"""What a checkpoint folder says about itself without reading a tensor: ``model.json`` and the tracker file.

Needs neither torch nor Megatron-Core, so export, evaluation and status can look at a checkpoint cheaply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.models.families import ModelShape

TRACKER = "latest_checkpointed_iteration.txt"
RELEASE = "release"
"""Name of the folder, and text of the tracker, if weights come from a conversion rather than a training."""
MODEL_FILE = "model.json"
_FOLDER = re.compile(r"iter_\d{7,}")


@dataclass(frozen=True)
class ModelFile:
    """``model.json`` of a checkpoint: what a reader needs to know before it reads a tensor.

    Attributes:
        dtype: ``float32`` or ``bfloat16``.
        consumed_train_samples: position in the data, in sequences.
        consumed_tokens: tokens trained on.
        files: size of each file of the checkpoint folder in bytes, by name.
        checksums: XXH3 (128 bits, hexadecimal) of each file, by name; empty if they were not computed.
    """

    shape: ModelShape
    vocab_size: int
    padded_vocab_size: int
    dtype: str
    seq_length: int
    iteration: int
    consumed_train_samples: int
    consumed_tokens: int
    files: dict[str, int]
    checksums: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "shape"}
        write_json(folder / MODEL_FILE, {"family": self.shape.family, "shape": self.shape.as_dict(), **values})

    @classmethod
    def read(cls, folder: Path) -> ModelFile:
        """Reads ``folder``/model.json and checks the files of the folder against it.

        Raises:
            InputError: the file is missing or cannot be read, or a shard is missing or truncated.
        """
        path = folder / MODEL_FILE
        values = read_json(path)
        try:
            shape = ModelShape.from_dict(values.pop("shape"), str(path))
            values.pop("family")
            model = cls(shape=shape, **values)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read by this version: {error}") from error
        for name, size in model.files.items():
            shard = folder / name
            if not shard.is_file():
                raise InputError(f"{shard}: missing from the checkpoint. {restore_hint(folder)}")
            if shard.stat().st_size != size:
                raise InputError(
                    f"{shard}: damaged: {shard.stat().st_size} bytes, but {size} were written. {restore_hint(folder)}"
                )
        return model


def iteration_folder(root: Path, iteration: int) -> Path:
    """``root``/iter_0000100 for iteration 100."""
    return root / f"iter_{iteration:07d}"


def latest_checkpoint(root: Path) -> Path | None:
    """The folder that the tracker of ``root`` names; None if nothing has been saved yet.

    Raises:
        InputError: the tracker is invalid, or names a folder that does not exist.
    """
    tracker = root / TRACKER
    if not tracker.exists():
        return None
    text = tracker.read_text().strip()
    if text != RELEASE and not text.isdigit():
        raise InputError(f"{tracker}: expected the number of an iteration or {RELEASE!r}, found {text[:40]!r}")
    folder = root / RELEASE if text == RELEASE else iteration_folder(root, int(text))
    if not folder.is_dir():
        named = text if text == RELEASE else f"iteration {text}"
        raise InputError(f"{tracker}: names {named}, but {folder} does not exist. {restore_hint(folder)}")
    return folder


def checkpoint_folder(path: Path) -> Path:
    """``path`` itself, or the newest checkpoint in it, or the converted one (``release``).

    Raises:
        InputError: there is none.
    """
    if (path / "metadata.json").is_file():
        return path
    if (path / RELEASE / "metadata.json").is_file():
        return path / RELEASE
    folder = latest_checkpoint(path) if path.is_dir() else None
    if folder is None:
        raise InputError(
            f"{path}: no checkpoint found; expected an iter_* or release folder, or one that contains {TRACKER}"
        )
    return folder


def checkpoints_in(root: Path) -> list[Path]:
    """Checkpoint folders under ``root``, oldest first."""
    return sorted(path for path in root.glob("iter_*") if _FOLDER.fullmatch(path.name) and path.is_dir())


def restore_hint(folder: Path) -> str:
    """How to recover from a checkpoint that cannot be used."""
    others = sorted(path.name for path in folder.parent.glob("iter_*") if path != folder)
    if not others:
        return "There is no other checkpoint; restore it or train again."
    return (
        f"Restore it, or write the number of another iteration into {folder.parent / TRACKER} to resume from there "
        f"(available: {', '.join(others)})."
    )
