"""The files of a shard that a model is asked for: its output, and beside it a lock, a journal and rejects."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.errors import StageError
from megatron_ipt.locks import locked

REJECTS_FOLDER = "rejects"


@dataclass(frozen=True)
class ShardFiles(ABC):
    """Files in the folder of the stage; ``name`` is that of the output."""

    name: str

    @property
    def stem(self) -> str:
        return self.name.split(".", 1)[0]

    def lock_path(self, directory: Path) -> Path:
        return directory / f".{self.stem}.lock"

    def locked(self, directory: Path) -> contextlib.AbstractContextManager[None]:
        """Holds this shard's lock; StageError if another process does."""
        advice = "Wait for it, or give every process its own shards with --shard i/N."
        return locked(self.lock_path(directory), directory / self.stem, remove=True, advice=advice)

    def journal_path(self, directory: Path) -> Path:
        return directory / f"{self.stem}.journal"

    def rejects_path(self, directory: Path) -> Path:
        return directory / REJECTS_FOLDER / f"{self.stem}.jsonl"

    def remove_leftovers(self, directory: Path, *folders: str) -> None:
        """Removes temporary files that dead writers of this shard left, also in ``folders`` of the stage; call with its
        lock held."""
        for folder in (directory, directory / REJECTS_FOLDER, *(directory / name for name in folders)):
            for leftover in folder.glob(f".{self.stem}.*.tmp"):
                leftover.unlink(missing_ok=True)

    @abstractmethod
    def refused(self, directory: Path) -> int:
        """How much the engine refused in the finished shard; 0 while it is unfinished."""

    def remove_journal(self, directory: Path) -> None:
        """Removes the journal of the finished shard, unless it is needed to ask again about what was refused."""
        if not self.refused(directory):
            self.journal_path(directory).unlink(missing_ok=True)

    def tidy(self, directory: Path) -> None:
        """Removes what a process that was killed right after finishing this shard left behind."""
        if self.journal_path(directory).exists() or self.lock_path(directory).exists():
            # If another process holds the lock, it will tidy up itself.
            with contextlib.suppress(StageError), self.locked(directory):
                self.remove_journal(directory)
