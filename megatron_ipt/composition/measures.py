"""What the report and the log say of a composition, from the numbers of all steps. Nothing is computed by a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.contexts import COPIES, KINDS, RANDOM, REAL
from megatron_ipt.composition.gain import threshold_of
from megatron_ipt.composition.neighbours import read_contexts
from megatron_ipt.composition.scores import SCORE_ROW
from megatron_ipt.composition.search import NONE, RANKS
from megatron_ipt.composition.store import NEIGHBOURS, SCORES, VECTORS, Numbers, Paragraphs, array_path, load_array

FEW_PARAGRAPHS = 80_000
"""Below, PICL gained little or lost (arXiv:2305.09137, section 4.3)."""
_BINS = 40
_SHOWN_CHARACTERS = 600
Gains = npt.NDArray[np.void]


def read_scores(directory: Path, names: list[str]) -> dict[str, Gains]:
    """Scores of all contexts by shard."""
    advice = f"Remove {directory / SCORES} and run `megatron-ipt compose` again."
    return {name: np.asarray(load_array(array_path(directory, SCORES, name), advice)) for name in names}


def gains_of(scores: dict[str, Gains], kind: str) -> npt.NDArray[np.float64]:
    """Finite gains of one kind of contexts, in order."""
    rows = np.concatenate([np.zeros(0, SCORE_ROW), *scores.values()])
    found = rows["gain"][rows["kind"] == KINDS.index(kind)]
    return np.asarray(found[np.isfinite(found)])


def threshold(config: CompositionConfig, scores: dict[str, Gains]) -> float:
    """The gain that a context must exceed."""
    if config.filter.minimum_gain is not None:
        return config.filter.minimum_gain
    return threshold_of(gains_of(scores, RANDOM).tolist(), config.filter.random_pass)


def gain_measures(scores: dict[str, Gains], cut: float) -> dict[str, Any]:
    """Histograms by kind, means, and what passes.

    Copies gain so much more that an axis up to them hides all else: there are bins for all kinds, and finer ones for
    the others.
    """
    by_kind = {kind: gains for kind in KINDS if len(gains := gains_of(scores, kind))}
    if not by_kind:
        return {}
    usual = {kind: gains for kind, gains in by_kind.items() if kind != COPIES} or by_kind
    return {
        "threshold": cut,
        "close": _histogram(usual, cut),
        "all": _histogram(by_kind, cut),
        "kinds": {
            kind: {
                "contexts": len(gains),
                "mean": float(gains.mean()),
                "median": float(np.median(gains)),
                "above_zero": float((gains > 0).mean()),
                "above_threshold": float((gains > cut).mean()),
            }
            for kind, gains in by_kind.items()
        },
    }


def _histogram(by_kind: Mapping[str, npt.NDArray[np.float64]], cut: float) -> dict[str, Any]:
    """``{edges, shares}``, shares of each kind by bin; the first and the last bin also hold what lies beyond."""
    everything = np.concatenate(list(by_kind.values()))
    low = min(float(np.quantile(everything, 0.002)), cut)
    high = max(float(np.quantile(everything, 0.998)), cut) + 1e-6
    edges = np.linspace(low, high, _BINS + 1)
    shares = {
        kind: (np.histogram(np.clip(gains, low, high), edges)[0] / len(gains)).tolist()
        for kind, gains in by_kind.items()
    }
    return {"edges": edges.tolist(), "shares": shares}


def rank_measures(paragraphs: Paragraphs) -> dict[str, Any]:
    """Of the plain nearest neighbours by rank: shares from the query's document, and of near-duplicates."""
    markers = [paragraphs.marker(NEIGHBOURS, shard.name) for shard in paragraphs.shards]
    queries = sum(marker["queries"] for marker in markers)
    ranks = min(RANKS, *(marker["ranks"] for marker in markers))
    documents = paragraphs.documents[paragraphs.unique]
    sizes = np.bincount(documents).astype(np.float64)
    total = len(documents)
    return {
        "ranks": list(range(1, ranks + 1)),
        **{
            name: [sum(marker[name][rank] for marker in markers) / max(queries, 1) for rank in range(ranks)]
            for name in ("same_document", "near_duplicates")
        },
        "chance": float((sizes * (sizes - 1)).sum() / max(total * (total - 1), 1)),
    }


def use_measures(uses: Numbers, unique: Numbers) -> dict[str, Any]:
    """How often paragraphs are neighbours in the rows."""
    own = uses[unique]
    edges = [0, 1, 2, 3, 5, 9, 17, 33, 65, 129]
    counts = {}
    for low, high in zip(edges, [*edges[1:], None]):
        number = int(((own >= low) & (own < high)).sum()) if high else int((own >= low).sum())
        label = f"{low}" if high == low + 1 else f"{low} to {high - 1}" if high else f"{low} and more"
        counts[label] = number
    while counts and len(counts) > 1 and not list(counts.values())[-1]:
        counts.popitem()
    return {
        "counts": counts,
        "never": float((own == 0).mean()),
        "most": int(own.max(initial=0)),
        "mean": float(own.mean()),
    }


def fill_measures(lengths: Numbers, seq_length: int) -> dict[str, Any]:
    """Shares of ``seq_length`` that rows fill, in tenths."""
    filled = (lengths - 1) / seq_length
    counts = np.histogram(np.minimum(filled, 0.9999), np.linspace(0, 1, 11))[0]
    return {
        "mean": float(filled.mean()),
        "counts": {f"{10 * tenth} to {10 * (tenth + 1)}%": int(number) for tenth, number in enumerate(counts)},
    }


def cards(
    config: CompositionConfig,
    directory: Path,
    paragraphs: Paragraphs,
    kept: dict[str, npt.NDArray[np.bool_]],
    scores: dict[str, Gains],
) -> list[dict[str, Any]]:
    """Three of the kept contexts: with the highest, the middle and the lowest gain; without gains, three by place."""
    found = []
    for name, chosen in kept.items():
        gains = scores[name]["gain"][scores[name]["kind"] == 0] if scores else np.full(len(chosen), np.nan)
        found += [(float(gains[place]), name, int(place)) for place in np.flatnonzero(chosen)]
    found.sort(key=lambda entry: (-entry[0] if np.isfinite(entry[0]) else 0.0, entry[1:]))
    if not found:
        return []
    picked = dict.fromkeys((0, len(found) // 2, len(found) - 1))
    return [
        describe(paragraphs, read_contexts(directory, found[place][1])[found[place][2]], found[place][0])
        for place in picked
    ]


def describe(paragraphs: Paragraphs, context: Any, gain: float, characters: int = _SHOWN_CHARACTERS) -> dict[str, Any]:
    """A context for people: the query, and its neighbours from the nearest on."""
    query = int(context["query"])
    return {
        "query": paragraphs.name(query),
        "text": paragraphs.text(query)[:characters],
        "gain": gain if np.isfinite(gain) else None,
        "neighbours": [
            {"name": paragraphs.name(number), "text": paragraphs.text(number)[:characters]}
            for number in context["neighbours"][context["neighbours"] != NONE].tolist()
        ],
    }


def warnings_of(unique: int, kept: int, contexts: int, gains: dict[str, Any]) -> list[str]:
    """What a reader must know."""
    found = []
    if unique < FEW_PARAGRAPHS:
        found.append(
            f"the corpus has {unique:,} different paragraphs; below {FEW_PARAGRAPHS:,}, composed contexts were worth "
            "little or did harm in the paper"
        )
    real = gains.get("kinds", {}).get(REAL)
    random = gains.get("kinds", {}).get(RANDOM)
    if real and random and real["mean"] <= random["mean"]:
        found.append(
            f"neighbours gain no more than random paragraphs do ({real['mean']:.3f} against {random['mean']:.3f} nats "
            "per token): the encoder does not find what belongs together"
        )
    if kept < contexts / 10:
        found.append(f"only {kept:,} of {contexts:,} contexts are kept")
    return found


def counts_of_vectors(paragraphs: Paragraphs) -> dict[str, int]:
    """Sums over all shards."""
    markers = [paragraphs.marker(VECTORS, shard.name) for shard in paragraphs.shards]
    return {name: sum(marker[name] for marker in markers) for name in ("paragraphs", "too_short", "too_long")}
