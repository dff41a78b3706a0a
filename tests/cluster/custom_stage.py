"""A custom stage, as a user would write it: documents in upper case, without the short ones.

Tests copy this file out of the package's tree and name it in ``extensions``. It reads documents and makes documents,
so whatever reads documents gets its output instead of the corpus's.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.costs import Documents, Estimate, Planning, StageCost
from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl, remove_leftovers
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.stages import DOCUMENTS, Resources, Stage, Units, register


@dataclass
class UpperConfig:
    minimum_characters: int = key(0, "Shorter documents are left out.", minimum=0)
    seconds: float = key(0.0, "Time to wait after each document.", minimum=0, affects_output=False)
    workers: int = key(1, "Processes over shards.", minimum=1, affects_output=False)


def shards_of(context: StageContext) -> list[Path]:
    folder = context.inputs[DOCUMENTS]
    return [path for lane in ("synthesis", "raw") for path in list_shards(folder / lane)]


def name_of(shard: Path) -> str:
    return f"{shard.parent.name}-{shard.name}"


def units(config: UpperConfig, context: StageContext) -> Units:
    return Units(tuple(map(name_of, shards_of(context))))


def run(config: UpperConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    total: Counter[str] = Counter()
    shards = share_of(shards_of(context), shard)
    for _, counts in map_shards(upper_shard, shards, (config, context.directory), config.workers):
        total.update(counts)
    return dict(total)


def upper_shard(shard: Path, config: UpperConfig, directory: Path) -> dict[str, int]:
    markers = ShardMarkers(directory)
    done = markers.counts(name_of(shard))
    if done is not None:
        return done
    counts = {"documents": 0, "short_documents": 0}
    target = directory / shard.parent.name / shard.name
    remove_leftovers(target.parent, target.name)
    with atomic_jsonl(target) as writer:
        for record in read_jsonl(shard):
            time.sleep(config.seconds)
            if len(record["text"]) < config.minimum_characters:
                counts["short_documents"] += 1
                continue
            writer.write({**record, "text": record["text"].upper()})
            counts["documents"] += 1
    markers.finish(name_of(shard), counts)
    return counts


def cost(config: UpperConfig, planning: Planning) -> Estimate:
    documents: Documents = planning.inputs[DOCUMENTS]
    row = StageCost.on_cores("upper", documents.tokens, planning.machine.cores, 500.0)
    return Estimate((row,), {DOCUMENTS: documents}, {"upper": planning.shard_gb(documents.tokens)})


register(
    Stage(
        name="upper",
        command="upper-case",
        help="Write documents in upper case.",
        config=UpperConfig,
        code=f"{__name__}:run",
        reads=(DOCUMENTS,),
        makes=(DOCUMENTS,),
        units=f"{__name__}:units",
        resources=Resources(cores="workers", time="0:20:00"),
        cost=f"{__name__}:cost",
        shows=("documents",),
    )
)
