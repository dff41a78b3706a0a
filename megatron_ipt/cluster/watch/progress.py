"""How far each stage is, from what stages write: manifests, markers of finished units, metrics. Needs no Slurm."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from megatron_ipt.manifest import ShardMarkers, StageContext, read_manifest
from megatron_ipt.parallel import share_of
from megatron_ipt.pipeline import context_of
from megatron_ipt.recipe import Recipe, section_of, stages_of
from megatron_ipt.stages import Progress, Stage, load

_TIME = "%Y-%m-%dT%H:%M:%S"


@dataclass(frozen=True)
class StageProgress:
    """One stage.

    Attributes:
        status: of its manifest; ``missing`` if it has not begun.
        done: whether each unit is finished, in the order in which shares are dealt out; empty if the units are not
            known yet.
        manifest: as it stands.
        own: what the stage itself reports, for stages with ``Stage.progress``.
        units: names of the units in ``done``.
    """

    stage: Stage
    status: str
    done: tuple[bool, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    own: Progress | None = None
    units: tuple[str, ...] = ()

    def of_step(self, step: str) -> StageProgress | None:
        """The same of one step of the stage; None if it has no units."""
        if not self.units:
            return self
        there = [name.startswith(f"{step}/") for name in self.units]
        if not any(there):
            return None
        return replace(self, done=tuple(compress(self.done, there)), units=tuple(compress(self.units, there)))

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    def unfinished_shares(self, count: int) -> list[int]:
        """Of ``count`` shares, those with an unfinished unit; all of them if the units are not known."""
        if self.complete:
            return []
        if not self.done:
            return list(range(count))
        return [index for index in range(count) if not all(share_of(self.done, (index, count)))]

    def seconds_left(self) -> float | None:
        """Estimated from the pace so far; None if there is none yet."""
        if self.complete:
            return None
        if self.own is not None:
            return self.own.seconds_left
        if self.status != "running" or not any(self.done):
            return None
        elapsed = time.time() - time.mktime(time.strptime(self.manifest["started"][:19], _TIME))
        finished = sum(self.done)
        return max(0.0, elapsed) / finished * (len(self.done) - finished)


def progress_of(recipe: Recipe) -> list[StageProgress]:
    """Progress of every stage, in order."""
    rows = []
    for stage in stages_of(recipe):
        context = context_of(stage, recipe)
        manifest = read_manifest(Path(recipe.output_dir) / stage.name) or {}
        status = manifest.get("status", "missing")
        waits = stage.shardable and status != "complete"
        units, done = _units(stage, section_of(recipe, stage), context) if waits else ((), ())
        own = load(stage.progress)(section_of(recipe, stage), context) if stage.progress else None
        rows.append(StageProgress(stage, status, done, manifest, own, units))
    return rows


def _units(stage: Stage, section: Any, context: StageContext) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Names of the units of an unfinished stage and which are finished; none while a stage it reads is unfinished, as
    the units may still change."""
    for folder in context.inputs.values():
        if (read_manifest(folder) or {}).get("status") != "complete":
            return (), ()
    units = load(stage.units)(section, context)
    markers = ShardMarkers(context.directory / units.folder)
    return units.names, tuple(markers.counts(name) is not None for name in units.names)
