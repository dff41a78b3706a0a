"""Distributed checkpoints in Megatron-Core's format, written so that a crash never leaves a partial one in use.

``checkpoints/iter_0000100/`` is written under a hidden name, checked, renamed, and only then named by
``latest_checkpointed_iteration.txt``. Besides Megatron's own files it contains ``model.json``: the shape of the model,
and size and checksum of every file, which is all that export, evaluation and a damage check need. Optimizer state is
saved in the "fully reshardable" form, so any layout of ranks can load what any other has saved.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.errors import InputError, StageError, StorageError
from megatron_ipt.files import atomic_open, put_in_place
from megatron_ipt.models.families import ModelShape
from megatron_ipt.training.checkpoints.megatron_arguments import megatron_arguments
from megatron_ipt.training.checkpoints.model_file import (
    TRACKER,
    ModelFile,
    checkpoint_folder,
    checkpoints_in,
    iteration_folder,
    latest_checkpoint,
    restore_hint,
)
from megatron_ipt.training.checkpoints.writer import Writer, collect_checksums, damaged, last_line
from megatron_ipt.training.config import CheckpointConfig
from megatron_ipt.training.cpu.snapshot import share_memory
from megatron_ipt.training.loop.optimizer import fit_optimizer_state
from megatron_ipt.training.loop.run_state import RunState

logger = logging.getLogger(__name__)

_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
_STRUCTURE = (
    "family", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "untie_embeddings_and_output_weights", "num_moe_experts",
)  # fmt: skip
"""Fields that determine names and sizes of tensors; others may differ when only weights are loaded."""


def load_model_weights(chunk: torch.nn.Module, folder: Path, groups: Any = None) -> None:
    """Loads only the weights of ``folder``, into an unwrapped model chunk.

    Args:
        groups: process groups of a model with its own layout; by default those of the run.
    """
    metadata = None if groups is None else {"dp_cp_group": groups.dp_cp}
    state = {"model": chunk.sharded_state_dict(metadata=metadata)}
    chunk.load_state_dict(_read(state, folder)["model"])


class Stateful(Protocol):
    """Has a state of plain values and tensors on CPU."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, states: Mapping[str, Any]) -> None: ...


class Checkpoints:
    """Saves and loads the state of a run under ``root``; every rank calls every method.

    Args:
        chunks: the model's chunks without wrappers, whose prefix would become part of the tensor names.
        describe: returns ``model.json`` of a state, without its files.
        objectives: their state is saved too; it is equal on all ranks.
    """

    def __init__(
        self,
        root: Path,
        chunks: list[Any],
        optimizer: Any,
        scheduler: Any,
        describe: Callable[[RunState], ModelFile],
        settings: CheckpointConfig,
        objectives: Stateful,
    ):
        self._root = root
        self._chunks = chunks
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._describe = describe
        self._settings = settings
        self._objectives = objectives
        self._first_rank = torch.distributed.get_rank() == 0
        self._writer = Writer(_SHARDING)
        self._pending: ModelFile | None = None
        # Waits for the disk that should not delay a step: syncing files one by one, deleting large ones.
        self._beside = ThreadPoolExecutor(1, "checkpoints")
        self._publication: Future[None] | None = None
        self._removal: Future[None] | None = None

    def load_latest(self) -> RunState | None:
        """Restores the newest checkpoint; None if there is none.

        Raises:
            InputError: the checkpoint is incomplete or damaged, and the recipe does not allow an earlier one.
            StageError: it belongs to a different model.
        """
        self._wait_for_publication()
        folder = self._newest_whole()
        if folder is None:
            return None
        saved = ModelFile.read(folder)
        now = self._describe(RunState(step=saved.iteration))
        for name in (*ModelShape.__dataclass_fields__, "vocab_size", "padded_vocab_size", "dtype"):
            before, after = (getattr(file.shape, name, getattr(file, name, None)) for file in (saved, now))
            if before != after:
                raise StageError(
                    f"{folder}: was trained with model {name}={before}, the recipe now says {after}. "
                    "Restore the recipe, or use another output_dir."
                )
        state = _read(self._state(None), folder)
        for name, chunk in self._named_chunks():
            chunk.load_state_dict(state[name])
        self._optimizer.load_state_dict(fit_optimizer_state(state["optimizer"], self._optimizer))
        self._scheduler.load_state_dict(state["opt_param_scheduler"])
        self._objectives.load_state_dict(state.get("objectives", {}))
        if "run_state" in state:
            return RunState.from_dict(state["run_state"])
        samples = saved.consumed_train_samples
        return RunState(step=saved.iteration, samples=samples, position=samples)

    def load_weights(self, path: Path) -> ModelFile:
        """Loads only the weights, from another run or a conversion; the optimizer starts from scratch.

        Raises:
            InputError: the checkpoint cannot be used.
            StageError: its model has different tensors.
        """
        folder = checkpoint_folder(path)
        self._refuse_damaged(folder)
        saved, now = ModelFile.read(folder), self._describe(RunState())
        for name in _STRUCTURE:
            before, after = getattr(saved.shape, name), getattr(now.shape, name)
            if before != after:
                raise StageError(
                    f"{folder}: holds a model with {name}={before}, training.model says {after}; initial weights must "
                    "have the same sizes"
                )
        state = _read({name: chunk.sharded_state_dict() for name, chunk in self._named_chunks()}, folder)
        for name, chunk in self._named_chunks():
            chunk.load_state_dict(state[name])
        self._optimizer.reload_model_params()
        return saved

    def save(self, state: RunState, wait: bool = False) -> None:
        """Saves ``state``; in a background process, if the recipe says so and ``wait`` is not set.

        Raises:
            StorageError: the checkpoint could not be written; the one before it is intact.
        """
        self.finish()
        described = self._describe(state)
        name = [_hidden(iteration_folder(self._root, state.step)).name]
        torch.distributed.broadcast_object_list(name)
        hidden = self._root / name[0]
        if self._first_rank:
            self._prepare(hidden)
        torch.distributed.barrier()
        self._writer.start(self._state(state), hidden, beside=self._settings.async_save and not wait)
        self._pending = described
        if wait or not self._settings.async_save:
            self.finish()
            self._wait_for_publication()
        if wait:
            self._await_removal()

    def is_writing(self) -> bool:
        """Whether this rank is still writing a checkpoint in the background."""
        return self._writer.is_writing()

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint has been started that :meth:`finish` has not published yet."""
        return self._pending is not None

    def finish(self) -> None:
        """Waits for the checkpoint that is being written and publishes it; does nothing if there is none.

        Raises:
            StorageError: it could not be written.
        """
        folder, described = self._writer.folder, self._pending
        if folder is None or described is None:
            return
        self._pending = None
        self._writer.finish()
        if self._first_rank:
            self._publication = self._beside.submit(self._publish, folder, described)

    def _wait_for_publication(self) -> None:
        """Returns once every rank can read the checkpoint that was finished last."""
        self._await_publication()
        torch.distributed.barrier()

    def _await_publication(self) -> None:
        if self._publication is not None:
            self._publication.result()
            self._publication = None

    def _await_removal(self) -> None:
        if self._removal is not None:
            self._removal.result()
            self._removal = None

    def _newest_whole(self) -> Path | None:
        """The newest checkpoint, or the newest intact one if the recipe allows falling back."""
        fall_back = self._settings.on_damage == "previous"
        try:
            folder = latest_checkpoint(self._root)
            if folder is None:
                return None
            self._refuse_damaged(folder)
            return folder
        except InputError as error:
            if not fall_back:
                raise InputError(
                    f"{error} Or set training.checkpoint.on_damage=previous to resume from the newest intact one."
                ) from error
            problem = str(error)
        for folder in reversed(checkpoints_in(self._root)):
            try:
                self._refuse_damaged(folder)
            except InputError:
                continue
            if self._first_rank:
                logger.warning("training: %s\nResuming from %s", problem, folder)
            return folder
        raise InputError(f"{problem} No other checkpoint is intact.")

    def _refuse_damaged(self, folder: Path) -> None:
        """Verifies the checksums of the files, each rank its share, and agrees on the result."""
        problem: str | None = None
        try:
            saved = ModelFile.read(folder)
            if self._settings.verify_load:
                ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
                problem = damaged(folder, saved.checksums, sorted(saved.checksums)[rank::ranks])
                problem = problem and f"{problem}. {restore_hint(folder)}"
        except InputError as error:
            problem = str(error)
        problems: list[str | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
        found = next(filter(None, problems), None)
        if found:
            raise InputError(found)

    def _prepare(self, hidden: Path) -> None:
        # In this order, because the publication starts the removal.
        self._await_publication()
        self._await_removal()
        try:
            for leftover in self._root.glob(".iter_*.tmp"):
                shutil.rmtree(leftover)
            hidden.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"{hidden}: cannot be created: {error.strerror or error}") from error

    def _publish(self, hidden: Path, described: ModelFile) -> None:
        folder = iteration_folder(self._root, described.iteration)
        files, checksums = collect_checksums(hidden)
        replace(described, files=files, checksums=checksums).write(hidden)
        put_in_place(hidden, folder)
        with atomic_open(self._root / TRACKER, "w") as stream:
            stream.write(str(described.iteration))
        self._remove_old(described.iteration)

    def _remove_old(self, newest: int) -> None:
        if not self._settings.keep_last:
            return
        # Folders of later iterations are from an earlier, longer run that was told to start over.
        earlier = [folder for folder in checkpoints_in(self._root) if _iteration_of(folder) < newest]
        outdated = []
        for folder in earlier[: len(earlier) - (self._settings.keep_last - 1)]:
            if not self._settings.keep_every or _iteration_of(folder) % self._settings.keep_every:
                outdated.append(folder.rename(_hidden(folder)))
        # A hidden folder that remains is removed at the next save.
        self._removal = self._beside.submit(_delete, outdated)

    def _named_chunks(self) -> list[tuple[str, Any]]:
        if len(self._chunks) == 1:
            return [("model", self._chunks[0])]
        return [(f"model{index}", chunk) for index, chunk in enumerate(self._chunks)]

    def _state(self, run: RunState | None) -> dict[str, Any]:
        """The state to save at ``run``; None for the template that a checkpoint is loaded into."""
        state: dict[str, Any] = {name: chunk.sharded_state_dict() for name, chunk in self._named_chunks()}
        state["optimizer"] = self._optimizer.sharded_state_dict(dict(state), is_loading=run is None, metadata=_SHARDING)
        if run is not None:
            described = self._describe(run)
            state |= {
                "checkpoint_version": 3.0,
                "iteration": run.step,
                "args": megatron_arguments(
                    described.shape,
                    described.seq_length,
                    described.vocab_size,
                    described.padded_vocab_size,
                    consumed_train_samples=described.consumed_train_samples,
                ),
                "opt_param_scheduler": self._scheduler.state_dict(),
                "run_state": run.to_dict(),
            }
            of_objectives = self._objectives.state_dict()
            if of_objectives:
                state["objectives"] = of_objectives
            share_memory(state)
        return state


def _hidden(folder: Path) -> Path:
    """A name next to ``folder`` that readers ignore and that the next save removes."""
    return folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _iteration_of(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.name))


def _read(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return dist_checkpointing.load(state, str(folder))
    except (OSError, EOFError, CheckpointException, CheckpointingException) as error:
        raise InputError(f"{folder}: cannot be loaded: {last_line(error)}. {restore_hint(folder)}") from error
