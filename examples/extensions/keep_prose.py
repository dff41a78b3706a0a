"""A custom stage: keeps documents that read like prose, and puts the others aside with the reason.

Reads documents and makes documents, so it takes its place between the corpus and whatever reads the corpus, which then
reads this stage's output instead. It is shardable: `megatron-ipt keep-prose RECIPE --shard 0/8`, or an array on Slurm.

    extensions: [examples/extensions/keep_prose.py]
    keep_prose: {minimum_words: 20}
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.stage import LANES
from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.stages import DOCUMENTS, Resources, Stage, Units, register
from megatron_ipt.stages.page import Bars, Figure, Figures, Part, StageRecord, Step
from megatron_ipt.stages.readable import compact, exact, percent, plural


@dataclass
class KeepProseConfig:
    """The recipe section ``keep_prose``."""

    minimum_words: int = key(10, "Shorter documents are dropped.", minimum=0)
    maximum_symbol_share: float = key(
        0.3, "Maximum share of characters that are neither letters nor spaces.", minimum=0, maximum=1
    )
    workers: int = key(1, "Processes that work on shards.", minimum=1, affects_output=False)


def units(config: KeepProseConfig, context: StageContext) -> Units:
    """The parts of the work: the shards of all lanes."""
    return Units(tuple(name for name, _ in _shards(context)))


def run(config: KeepProseConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Filters every document, or those of share ``shard`` (i, N) only; returns the counts."""
    mine = share_of(_shards(context), shard)
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    with Progress("keep_prose", len(mine), "shards") as bar:
        for _, counts in map_shards(_filter, mine, (config, context.directory), config.workers):
            dropped.update(counts["dropped"])
            total.update({name: value for name, value in counts.items() if name != "dropped"})
            bar.advance(1, documents=f"{total['documents']:,}")
    return {"documents": total["documents"], "characters": total["characters"], "dropped": dict(dropped)}


def _shards(context: StageContext) -> list[tuple[str, Path]]:
    """(name of the unit, file) of every shard to read."""
    folder = context.inputs[DOCUMENTS]
    return [(f"{lane}-{path.name.split('.', 1)[0]}", path) for lane in LANES for path in list_shards(folder / lane)]


def _filter(shard: tuple[str, Path], config: KeepProseConfig, directory: Path) -> dict[str, Any]:
    """Writes one shard, unless it is finished; returns its counts. Files appear when they are complete."""
    name, path = shard
    markers = ShardMarkers(directory)
    finished = markers.counts(name)
    if finished is not None:
        return finished
    counts: dict[str, Any] = {"documents": 0, "characters": 0}
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(directory / "rejects" / f"{name}.jsonl"))
        writer = stack.enter_context(atomic_jsonl(directory / path.parent.name / path.name))
        for line, record in enumerate(read_jsonl(path), 1):
            text = Document.from_json(record).text
            reason = _reason_to_drop(text, config)
            if reason:
                rejects.add(reason, str(path), line, record["id"], text)
                continue
            writer.write(record)
            counts["documents"] += 1
            counts["characters"] += len(text)
    counts["dropped"] = dict(rejects.reasons)
    markers.finish(name, counts)
    return counts


def _reason_to_drop(text: str, config: KeepProseConfig) -> str:
    if len(text.split()) < config.minimum_words:
        return "too short"
    symbols = sum(not (character.isalpha() or character.isspace()) for character in text)
    return "too many symbols" if symbols > config.maximum_symbol_share * len(text) else ""


def report(stage: StageRecord) -> Part:
    """What the report shows of this stage."""
    counts = stage.counts
    if not counts:  # The stage has not finished.
        return Part()
    kept, dropped = counts["documents"], sum(counts["dropped"].values())
    share = percent(kept / (kept + dropped)) if kept + dropped else ""
    documents = plural(kept + dropped, "document")
    return Part(
        title="Documents that read like prose",
        link="Prose",
        step=Step(into=f"from {documents}", amount=compact(kept), unit="documents", detail=f"{share} kept"),
        headline=f"{compact(kept)} of {documents} kept",
        elements=[
            Figures([Figure("documents kept", exact(kept), share), Figure("dropped", exact(dropped))]),
            Bars("Dropped documents", counts["dropped"], note=f"Each is listed in `{stage.name}/rejects/`."),
        ],
    )


register(
    Stage(
        name="keep_prose",
        command="keep-prose",
        help="Keep documents that read like prose.",
        config=KeepProseConfig,
        code=f"{__name__}:run",
        reads=(DOCUMENTS,),
        makes=(DOCUMENTS,),
        units=f"{__name__}:units",
        resources=Resources(cores="workers"),
        report=f"{__name__}:report",
        shows=("documents", "dropped"),
    )
)
