"""``compose --show N``: a query with its neighbours, their documents and what the context gains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.contexts import KINDS, REAL
from megatron_ipt.composition.measures import describe
from megatron_ipt.composition.neighbours import read_contexts, read_neighbours
from megatron_ipt.composition.search import NONE
from megatron_ipt.composition.store import CONTEXTS, SCORES, Paragraphs, array_path, load_array
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.selection.rows import shards_of
from megatron_ipt.stages import DOCUMENTS

_ALL_CHARACTERS = 10_000


def show(config: CompositionConfig, context: StageContext, value: str) -> dict[str, Any]:
    """Context number ``value``, counted from 0 over all that were composed, kept or not.

    Raises:
        RecipeError: there is no such context.
        StageError: neighbours are not all found yet.
    """
    directory = context.directory
    names = [shard.name for shard in shards_of(context.inputs[DOCUMENTS])]
    paragraphs = Paragraphs(directory, names)
    found = read_neighbours(directory, paragraphs, names)
    markers = ShardMarkers(directory)
    composed = markers.counts(f"{CONTEXTS}/all")
    if composed is None:
        raise StageError(
            f"{directory}: contexts are not composed yet; run `megatron-ipt compose` with --until neighbours"
        )
    if not value.isdigit() or int(value) >= composed["contexts"]:
        raise RecipeError(f"--show {value}: expected the number of a context, 0 to {composed['contexts'] - 1}")
    left = int(value)
    for name in names:
        contexts = read_contexts(directory, name)
        if left < len(contexts):
            break
        left -= len(contexts)
    chosen = contexts[left]
    gain = float("nan")
    if markers.counts(f"{SCORES}/{name}") is not None:
        scores = load_array(array_path(directory, SCORES, name), f"Remove {directory / SCORES}.")
        gain = float(scores[scores["kind"] == KINDS.index(REAL)]["gain"][left])
    row = found[int(np.searchsorted(found["query"], chosen["query"]))]
    nearness = dict(zip(row["neighbours"].tolist(), row["nearness"].tolist()))
    shown = describe(paragraphs, chosen, gain, _ALL_CHARACTERS)
    numbers = chosen["neighbours"][chosen["neighbours"] != NONE].tolist()
    for neighbour, number in zip(shown["neighbours"], numbers):
        neighbour["nearness"] = nearness[number]
    return {"context": int(value), "contexts": composed["contexts"], "metric": config.search.metric} | shown


def text(shown: Mapping[str, Any]) -> str:
    """For a terminal."""
    return "\n".join(_lines(shown))


def _lines(shown: Mapping[str, Any]) -> Iterator[str]:
    gain = "not scored" if shown["gain"] is None else f"gains {shown['gain']:.3f} nats per token"
    yield f"context {shown['context']} of {shown['contexts']}, {gain}"
    yield f"query  {shown['query']}"
    yield f"    {shown['text']}"
    unit = "dot product" if shown["metric"] == "dot" else "minus squared distance"
    for rank, neighbour in enumerate(shown["neighbours"], 1):
        yield f"{rank:>5}  {neighbour['name']}  {unit} {neighbour['nearness']:.3f}"
        yield f"    {neighbour['text']}"
