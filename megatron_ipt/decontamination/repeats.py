"""Near-duplicate questions of all shards: the last step of the stage, in one process.

Which question is the earlier one depends on all shards before, so shards are taken in order, and their questions are
compared as they come. A finished shard leaves a marker; after an interruption its questions are only read, not written
again. Memory is that of :class:`~megatron_ipt.synthesis.near_duplicates.NearDuplicates`: 1 to 2 kB for a kept question.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_ipt.decontamination.shard import REJECTS_FOLDER, ShardTask
from megatron_ipt.decontamination.tally import NEAR_DUPLICATE
from megatron_ipt.files import atomic_jsonl, read_jsonl, remove_leftovers
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.near_duplicates import NearDuplicates

logger = logging.getLogger(__name__)

CLEANED = "cleaned"
"""Folder of shards without test questions, from which near-duplicates are to be removed."""
_MANY = 0.2
_GROUP = 500


def remove_repeats(tasks: list[ShardTask], directory: Path, threshold: float, seed: int) -> None:
    """Writes the chains of ``tasks``, which lie in the folder ``cleaned``, without near-duplicate questions."""
    seen: NearDuplicates[str] = NearDuplicates(threshold, seed)
    markers = ShardMarkers(directory)
    counts: Counter[str] = Counter()
    with Progress("near-duplicates", len(tasks), "shards") as bar:
        for task in tasks:
            name = Path(task.name).name
            done = markers.counts(name)
            if done is None:
                done = _write_shard(directory, name, seen)
                markers.finish(name, done)
            else:
                for chains in _groups(read_jsonl(directory / name)):
                    for _ in seen.find_all(_questions(chains)):
                        pass
            # Only now is what it was made from no longer needed.
            (directory / task.name).unlink(missing_ok=True)
            counts.update(done)
            bar.advance(1, removed=f"{counts['near_duplicates']:,}")
    total = counts["near_duplicates"] + counts["pairs"]
    if counts["near_duplicates"] > _MANY * total:
        logger.warning(
            "decontaminate: %s of %s questions are near-duplicates of earlier ones. If they ask about different texts, "
            "that is no fault: set decontaminate.near_duplicates to null",
            f"{counts['near_duplicates']:,}", f"{total:,}",
        )  # fmt: skip


def _write_shard(directory: Path, name: str, seen: NearDuplicates[str]) -> dict[str, int]:
    counts: Counter[str] = Counter(near_duplicates=0)
    rejects_path = directory / REJECTS_FOLDER / f"{name.split('.', 1)[0]}.near_duplicates.jsonl"
    source = directory / CLEANED / name
    remove_leftovers(directory, name)
    remove_leftovers(rejects_path.parent, rejects_path.name)
    with Rejects(rejects_path) as rejects, atomic_jsonl(directory / name) as writer:
        line = 0
        for chains in _groups(read_jsonl(source)):
            found = iter(list(seen.find_all(_questions(chains))))
            for chain in chains:
                line += 1
                for example in chain["examples"]:
                    kept = []
                    for pair in example["pairs"]:
                        _, earlier = next(found)
                        if earlier is None:
                            kept.append(pair)
                        else:
                            rejects.add(
                                NEAR_DUPLICATE, name, line, f"{example['id']}: like {earlier}", pair["question"],
                                earlier=earlier,
                            )  # fmt: skip
                    example["pairs"] = kept
                    counts["pairs"] += len(kept)
                    counts["texts_with_pairs"] += bool(kept)
                writer.write(chain)
        counts["near_duplicates"] = rejects.count
    return dict(counts)


def _groups(chains: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = iter(chains)
    while group := list(islice(remaining, _GROUP)):
        yield group


def _questions(chains: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(place, question) of every pair."""
    for chain in chains:
        for example in chain["examples"]:
            for number, pair in enumerate(example["pairs"], 1):
                yield f"pair {number} of {example['id']}", pair["question"]
