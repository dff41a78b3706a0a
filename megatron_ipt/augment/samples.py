"""Sample documents for the report: a few of every layout, with text, questions and answers marked.

Samples are chosen by a hash of their ids, so the choice is reproducible. A shard stores only the positions of its
candidates; chosen documents are rendered again.
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
    """The first documents of each layout in one shard, short ones first, ordered by a hash of their ids.

    A candidate is (whether it is long, hash, position in the shard).
    """

    def __init__(self) -> None:
        self._first: dict[str, list[tuple[int, int, int]]] = {}

    def add(self, chain_id: str, position: int, rendered: Rendered, seed: int) -> None:
        candidate = (int(len(rendered.text) > _LONG_CHARACTERS), derive(seed, "sample", chain_id), position)
        first = self._first.setdefault(rendered.layout, [])
        if len(first) < _SAMPLES or candidate < first[-1]:
            first.append(candidate)
            first.sort()
            del first[_SAMPLES:]

    def to_json(self) -> dict[str, list[tuple[int, int, int]]]:
        return self._first


class Samples:
    """Candidates of all shards, limited to the number that is shown."""

    def __init__(self) -> None:
        self._first: dict[str, list[tuple[int, int, str, int]]] = {}

    def add(self, shard: Path, candidates: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Adds the result of :meth:`Candidates.to_json` for ``shard``."""
        for layout, found in candidates.items():
            first = self._first.setdefault(layout, [])
            first += [(is_long, order, str(shard), position) for is_long, order, position in found]
            first.sort()
            del first[_SAMPLES:]

    def chosen(self) -> list[tuple[Path, int]]:
        """(shard, position in it) of the samples, round-robin over layouts."""
        by_layout = [self._first[layout] for layout in sorted(self._first)]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*by_layout))
        samples = itertools.islice((candidate for candidate in turns if candidate), _SAMPLES)
        return [(Path(shard), position) for _, _, shard, position in samples]

    def render(self, templates: Templates, seed: int) -> list[dict[str, Any]]:
        """The chosen documents: id, split, layout, counts, prompt styles and tasks, and segments as (kind, string)."""
        chosen = self.chosen()
        found = {}
        for shard in {shard for shard, _ in chosen}:
            positions = {position for chosen_shard, position in chosen if chosen_shard == shard}
            for position, record in enumerate(itertools.islice(read_jsonl(shard), max(positions) + 1)):
                if position in positions:
                    found[shard, position] = _sample(Chain.from_json(record), templates, seed)
        return [found[key] for key in chosen]


def _sample(chain: Chain, templates: Templates, seed: int) -> dict[str, Any]:
    rendered = render(chain, templates, seed)
    pairs = [pair for example in chain.examples for pair in example.pairs]
    return {
        "id": chain.id,
        "split": chain.split,
        "layout": rendered.layout,
        "text_last": rendered.text_last,
        "texts": rendered.texts,
        "pairs": rendered.pairs,
        "styles": sorted({pair.style for pair in pairs} - {""}),
        "tasks": sorted({pair.task for pair in pairs} - {""}),
        "segments": rendered.segments,
    }
