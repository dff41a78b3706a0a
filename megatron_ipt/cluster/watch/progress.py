"""How far each stage is, from what stages leave on disk: manifests, markers of shards, metrics. Needs no Slurm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.manifest import ShardMarkers, read_manifest
from megatron_ipt.parallel import share_of
from megatron_ipt.pipeline import context_of
from megatron_ipt.recipe import Recipe, section_of, stages_of
from megatron_ipt.stages import Stage
from megatron_ipt.training.loop.metrics import METRICS_FILE, read_metrics


@dataclass(frozen=True)
class StageProgress:
    """One stage.

    Attributes:
        status: of its manifest; ``missing`` where it has not begun.
        done: by shard, in the order in which shares are dealt out; empty where the shards are not known yet.
        manifest: as it stands.
    """

    stage: Stage
    status: str
    done: tuple[bool, ...]
    manifest: dict[str, Any]

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    def unfinished_shares(self, count: int) -> list[int]:
        """Of ``count`` shares, those with a shard that is not done; all of them where the shards are not known."""
        if self.complete:
            return []
        if not self.done:
            return list(range(count))
        return [index for index in range(count) if not all(share_of(self.done, (index, count)))]


def progress_of(recipe: Recipe) -> list[StageProgress]:
    """Progress of every stage, in order."""
    rows = []
    for stage in stages_of(recipe):
        manifest = read_manifest(Path(recipe.output_dir) / stage.name) or {}
        status = manifest.get("status", "missing")
        done = () if status == "complete" or not stage.shardable else _done(stage, recipe)
        rows.append(StageProgress(stage, status, done, manifest))
    return rows


def _done(stage: Stage, recipe: Recipe) -> tuple[bool, ...]:
    """Which shards of an unfinished stage are made; empty unless what it reads is complete and grows no more."""
    context = context_of(stage, recipe)
    for folder in context.inputs.values():
        if (read_manifest(folder) or {}).get("status") != "complete":
            return ()
    units = stage.function(stage.units)(section_of(recipe, stage), context)
    markers = ShardMarkers(context.directory / units.folder)
    return tuple(markers.counts(name) is not None for name in units.names)


@dataclass(frozen=True)
class TrainingProgress:
    """How far the training is, from ``metrics.jsonl``.

    Attributes:
        steps: of the whole run; None where it cannot be told.
        seconds_left: at the speed of the last steps.
    """

    step: int
    steps: int | None
    tokens: int
    loss: float
    tokens_per_second: float
    seconds_left: float | None


_RECENT = 50


def training_progress(recipe: Recipe) -> TrainingProgress | None:
    """Progress of the training; None before its first step."""
    config = recipe.training
    records = [
        record for record in read_metrics(Path(recipe.output_dir) / "training" / METRICS_FILE) if "loss" in record
    ]
    if not records:
        return None
    last = records[-1]
    recent = [record["tokens_per_second"] for record in records[-_RECENT:]]
    speed = len(recent) / sum(1 / max(rate, 1e-9) for rate in recent)
    per_step = config.global_batch_size * config.seq_length()
    # What the training was begun with, which the recipe need not say.
    settings = (read_manifest(Path(recipe.output_dir) / "training") or {}).get("settings", {})
    steps, tokens = settings.get("steps", config.steps), settings.get("tokens", config.tokens)
    steps = steps or (-(-tokens // per_step) if tokens else None)
    left = (steps - last["step"]) * per_step / speed if steps else None
    return TrainingProgress(last["step"], steps, int(last["tokens"]), last["loss"], speed, left)
