"""Sample documents for people: a few of every layout, with text, questions and answers told apart.

Which documents are shown is a matter of their ids, so the same run shows the same ones. A shard remembers the places
of its candidates only; the few that are chosen are rendered again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.augment.render import Rendered, render
from megatron_ipt.augment.templates import Templates
from megatron_ipt.files import read_jsonl
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.pairs import Chain

SAMPLES = "samples.json"
_SAMPLES = 12
_LONG_CHARACTERS = 6000


class Candidates:
    """Of one shard and every layout, the first documents in the order of a hash of their ids, short ones first.

    A candidate is (whether it is long, hash, place in the shard).
    """

    def __init__(self) -> None:
        self._first: dict[str, list[tuple[int, int, int]]] = {}

    def add(self, chain_id: str, place: int, rendered: Rendered, seed: int) -> None:
        candidate = (int(len(rendered.text) > _LONG_CHARACTERS), derive(seed, "sample", chain_id), place)
        first = self._first.setdefault(rendered.layout, [])
        if len(first) < _SAMPLES or candidate < first[-1]:
            first.append(candidate)
            first.sort()
            del first[_SAMPLES:]

    def to_json(self) -> dict[str, list[tuple[int, int, int]]]:
        return self._first


class Samples:
    """The candidates of all shards, cut to as many as can be shown."""

    def __init__(self) -> None:
        self._first: dict[str, list[tuple[int, int, str, int]]] = {}

    def add(self, shard: Path, candidates: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Takes in what :meth:`Candidates.to_json` gave for ``shard``."""
        for layout, found in candidates.items():
            first = self._first.setdefault(layout, [])
            first += [(is_long, rank, str(shard), place) for is_long, rank, place in found]
            first.sort()
            del first[_SAMPLES:]

    def chosen(self) -> list[tuple[Path, int]]:
        """(shard, place in it) of the samples: every layout in turn until there are enough."""
        lanes = [self._first[layout] for layout in sorted(self._first)]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*lanes))
        samples = itertools.islice((candidate for candidate in turns if candidate), _SAMPLES)
        return [(Path(shard), place) for _, _, shard, place in samples]

    def render(self, templates: Templates, seed: int) -> list[dict[str, Any]]:
        """The chosen documents: id, split, layout, counts, and segments as (kind, string)."""
        chosen = self.chosen()
        found = {}
        for shard in {shard for shard, _ in chosen}:
            places = {place for chosen_shard, place in chosen if chosen_shard == shard}
            for place, record in enumerate(itertools.islice(read_jsonl(shard), max(places) + 1)):
                if place in places:
                    found[shard, place] = _sample(Chain.from_json(record), templates, seed)
        return [found[key] for key in chosen]


def _sample(chain: Chain, templates: Templates, seed: int) -> dict[str, Any]:
    rendered = render(chain, templates, seed)
    return {
        "id": chain.id,
        "split": chain.split,
        "layout": rendered.layout,
        "text_last": rendered.text_last,
        "texts": rendered.texts,
        "pairs": rendered.pairs,
        "segments": rendered.segments,
    }
