"""A custom stage: leaves out documents in which too few characters are letters, such as tables and lists of links.

It reads documents and makes documents, so later stages read its output instead of the corpus's. Once registered, it
takes part in everything: `run`, `--shard`, resume, `status`, `submit`, `plan`, the report, `keys quality`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl, remove_leftovers
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.rejects import Rejects
from megatron_ipt.stages import DOCUMENTS, Resources, Stage, Units, register
from megatron_ipt.stages.costs import Documents, Estimate, Planning, StageCost

LANES = ("synthesis", "raw")
"""Folders of documents: those that get pairs, and those that stay as they are."""


@dataclass
class QualityConfig:
    """Section ``quality`` of the recipe."""

    minimum_letters: float = key(0.6, "Minimum fraction of a document's characters that are letters.", minimum=0)
    workers: int = key(1, "Processes over shards.", minimum=1, affects_output=False)


def shards_of(context: StageContext) -> list[Path]:
    folder = context.inputs[DOCUMENTS]
    return [path for lane in LANES for path in list_shards(folder / lane)]


def unit_of(shard: Path) -> str:
    return f"{shard.parent.name}-{shard.name}"


def units(config: QualityConfig, context: StageContext) -> Units:
    """What can be done independently: one unit per shard. That makes the stage shardable."""
    return Units(tuple(map(unit_of, shards_of(context))))


def run(config: QualityConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Writes the documents to keep; returns the counts."""
    total: Counter[str] = Counter()
    shards = share_of(shards_of(context), shard)
    for _, counts in map_shards(filter_shard, shards, (config, context.directory), config.workers):
        total.update(counts)
    return dict(total)


def filter_shard(shard: Path, config: QualityConfig, directory: Path) -> dict[str, int]:
    """One unit. A marker is written when it is finished, so that it is skipped after an interruption."""
    markers = ShardMarkers(directory)
    done = markers.counts(unit_of(shard))
    if done is not None:
        return done
    counts = {"documents": 0, "left_out": 0}
    target = directory / shard.parent.name / shard.name
    left_out = directory / "rejects" / f"{unit_of(shard)}.jsonl"
    for path in (target, left_out):
        remove_leftovers(path.parent, path.name)
    with Rejects(left_out) as rejects, atomic_jsonl(target) as writer:
        for line, record in enumerate(read_jsonl(shard), 1):
            letters = sum(map(str.isalpha, record["text"]))
            if letters < config.minimum_letters * len(record["text"]):
                rejects.add("too few letters", str(shard), line, record["id"], record["text"])
                counts["left_out"] += 1
            else:
                writer.write(record)
                counts["documents"] += 1
    markers.finish(unit_of(shard), counts)
    return counts


def cost(config: QualityConfig, planning: Planning) -> Estimate:
    """For ``plan``: time, storage, and the size of what later stages read. Optional."""
    documents: Documents = planning.inputs[DOCUMENTS]
    row = StageCost.on_cores("quality", documents.tokens, planning.machine.cores, 50.0)
    return Estimate((row,), {DOCUMENTS: documents}, {"quality": planning.shard_gb(documents.tokens)})


register(
    Stage(
        name="quality",
        command="filter-quality",
        help="Leave out documents with too few letters.",
        config=QualityConfig,
        code=f"{__name__}:run",
        reads=(DOCUMENTS,),
        makes=(DOCUMENTS,),
        units=f"{__name__}:units",
        resources=Resources(cores="workers", time="2:00:00"),
        cost=f"{__name__}:cost",
    )
)
