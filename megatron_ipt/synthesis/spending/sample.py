"""Chains drawn from all shards, to look at or to ask about before a run.

The draw is by a hash of each chain's id, so that neither order nor size decides, and the chains come in random order:
any first part of them is a sample as well. Where reading everything would take too long, whole shards are drawn first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.pairs import Chain


@dataclass(frozen=True)
class Sample:
    """Chains of some shards.

    Attributes:
        chains: in random order.
        total_chains, total_texts: in all shards; estimated where not all were read.
        mean_size: characters of a chain, on average over all that were read.
        shards_read, shards: of how many.
    """

    chains: list[Chain]
    total_chains: float
    total_texts: float
    mean_size: float
    shards_read: int
    shards: int


def sample_chains(
    shards: Sequence[Path], seed: int, wanted: int, form_chains: Callable[[Path], Iterable[Chain]], most_bytes: float
) -> Sample:
    """Up to ``wanted`` chains of ``shards``.

    Args:
        shards: files of documents.
        seed: of the recipe.
        wanted: number of chains.
        form_chains: the chains of a shard, in order.
        most_bytes: of compressed shards to read. At least one shard is read.
    """
    order = sorted(shards, key=lambda path: derive(seed, "sampled shard", path.name))
    sizes = {path: path.stat().st_size for path in order}
    read_bytes = read = count = texts = characters = 0
    # The chains with the smallest hashes; the heap's first is the one with the largest.
    drawn: list[tuple[int, int, Chain]] = []
    for path in order:
        if read and read_bytes + sizes[path] > most_bytes:
            break
        read += 1
        read_bytes += sizes[path]
        for chain in form_chains(path):
            count += 1
            texts += len(chain.examples)
            characters += size_of(chain)
            entry = (-derive(seed, "sampled chain", chain.id), count, chain)
            if len(drawn) < wanted:
                heapq.heappush(drawn, entry)
            elif drawn and entry > drawn[0]:
                heapq.heapreplace(drawn, entry)
    scale = sum(sizes.values()) / read_bytes if read_bytes else 1.0
    return Sample(
        [chain for _, _, chain in sorted(drawn, reverse=True)],
        count * scale,
        texts * scale,
        characters / count if count else 0.0,
        read,
        len(order),
    )


def size_of(chain: Chain) -> int:
    """Characters of its texts."""
    return sum(len(example.text) for example in chain.examples)
