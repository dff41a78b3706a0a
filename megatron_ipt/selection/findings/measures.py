"""What a selection did, for the report and ``--dry-run``: kept shares by domain, source and length, and warnings.

Counts are of all rows, in a second pass over the shards; curves and rank correlations are of evenly spaced rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import NO_DOMAIN
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision
from megatron_ipt.selection.order import Flags, Values, largest, spearman, uniform
from megatron_ipt.selection.rows import REFUSED, Rows
from megatron_ipt.selection.score_sets import RowSource, log_likelihoods

REASONS = ("", "below the cut", "nothing to predict", "refused by the engine", "not in the file of scores")
"""Why a document is left out; empty for one that is kept."""
_BELOW_THE_CUT, _NOTHING_TO_PREDICT, _REFUSED_TO_SCORE, _NOT_IN_FILE = range(1, len(REASONS))
_SAMPLED = 200_000
_STRETCH = 1 << 20
"""Rows that are looked at together."""
_FEWEST_BINS, _MOST_BINS = 10, 60
_DECILES = 10
_LENGTH_CORRELATION = 0.5
_OVERLAP = "overlap with random"


def reasons(sets: Iterable[Rows], values: Values, kept: Flags) -> npt.NDArray[np.uint8]:
    """Why each row of a shard is left out, as places in :data:`REASONS`.

    Args:
        sets: its rows by scorer; none where there is no scorer.
    """
    found = np.full(len(values), _BELOW_THE_CUT, np.uint8)
    missing = np.isnan(values)
    found[missing] = _NOT_IN_FILE
    for rows in sets:
        found[missing & (rows["tokens"] == 0)] = _NOTHING_TO_PREDICT
        found[missing & (rows["tokens"] == REFUSED)] = _REFUSED_TO_SCORE
    found[kept] = 0
    return found


def measures(config: SelectionConfig, source: RowSource, decision: Decision, seed: int) -> dict[str, Any]:
    """Everything about a decision that its documents are not needed for."""
    values, kept = decision.values, decision.kept
    count = len(values)
    sampled = _Sample(config, source, decision)
    by_domain: dict[str, list[int]] = {}
    by_source: dict[str, list[int]] = {}
    by_length = np.zeros((_DECILES, 2), np.int64)
    left_out = np.zeros(len(REASONS), np.int64)
    totals = {"tokens": 0, "bytes": 0, "kept_tokens": 0, "kept_bytes": 0}
    common = 0
    share = float(kept.sum()) / max(count, 1)
    for _, place, sets in source:
        rows, own = sets[0].rows, kept[place]
        _add(by_domain, [name or NO_DOMAIN for name in sets[0].domains], rows["domain"], own)
        _add(by_source, sets[0].sources, rows["source"], own)
        decile = np.searchsorted(sampled.length_edges, rows["bytes"], side="right")
        by_length[:, 0] += np.bincount(decile, minlength=_DECILES)
        by_length[:, 1] += np.bincount(decile[own], minlength=_DECILES)
        why = reasons([each.rows for each in sets] if source.scorers else [], values[place], own)
        left_out += np.bincount(why, minlength=len(REASONS))
        for name in ("tokens", "bytes"):
            column = np.maximum(rows[name], 0)
            totals[name] += int(column.sum(dtype=np.int64))
            totals[f"kept_{name}"] += int(column[own].sum(dtype=np.int64))
        # Another draw than that of the rule random, which would agree with itself.
        common += int((uniform(seed, _OVERLAP, rows["id"])[own] < share).sum())
    length_correlation = sampled.length_correlation()
    found = {
        "rule": config.rule,
        "unit": config.UNIT,
        "rows": count,
        "kept": int(kept.sum()),
        "share_of": config.share_of,
        "total": decision.total,
        "kept_total": decision.kept_total,
        **totals,
        "cut": decision.cut if config.rule != "random" else None,
        "left_out": {reason: int(number) for reason, number in zip(REASONS, left_out) if reason and number},
        "by_domain": _shares(by_domain),
        "by_source": _shares(by_source),
        "by_length": [
            {"from_bytes": int(low), "rows": int(all_rows), "kept": int(own_rows)}
            for low, (all_rows, own_rows) in zip([0, *sampled.length_edges.tolist()], by_length)
        ],
        "length_correlation": length_correlation,
        "overlap_with_random": common / max(int(kept.sum()), 1),
        "expected_overlap": share,
        "histogram": _histogram(values, kept, sampled.values),
        "relation": sampled.relation(),
        "short_domains": decision.short,
        "unmatched_scores": decision.unmatched,
    }
    return found | {"warnings": list(_warnings(config, found))}


def chosen_rows(decision: Decision, each: int) -> dict[str, list[int]]:
    """Places of up to ``each`` rows at the top, around the cut and at the bottom, in falling order of value."""
    values, kept = decision.values, decision.kept
    above = (each + 1) // 2
    groups = {
        "top": _extreme(values, 1, None, each),
        "cut": _extreme(values, -1, kept, above) + _extreme(values, 1, ~kept, each - above),
        "bottom": _extreme(values, -1, None, each),
    }
    return {name: sorted(rows, key=lambda row: (-values[row], row)) for name, rows in groups.items()}


def _extreme(values: Values, sign: int, among: Flags | None, count: int) -> list[int]:
    """Rows of the ``count`` largest of ``sign * values``, stretch by stretch, so that no second copy is made."""
    rows = np.zeros(0, np.int64)
    for first in range(0, len(values), _STRETCH):
        eligible = ~np.isnan(values[first : first + _STRETCH])
        if among is not None:
            eligible &= among[first : first + _STRETCH]
        rows = np.concatenate([rows, first + np.flatnonzero(eligible)])
        rows = rows[largest(sign * values[rows], count)]
    found: list[int] = rows.tolist()
    return found


class _Sample:
    """Evenly spaced rows: their values, lengths and log-likelihoods."""

    def __init__(self, config: SelectionConfig, source: RowSource, decision: Decision):
        step = max(1, len(decision.values) // _SAMPLED)
        self.values = decision.values[::step]
        self.kept = decision.kept[::step]
        lengths, likelihoods = [], []
        for _, place, sets in source:
            of_shard = slice(-place.start % step, None, step)
            lengths.append(sets[0].rows["bytes"][of_shard].copy())
            if len(sets) == 2:
                likelihoods.append([log_likelihoods(each.rows[of_shard], config.per) for each in sets])
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int32)
        self.likelihoods = [np.concatenate(each) for each in zip(*likelihoods)]
        quantiles = np.arange(1, _DECILES) / _DECILES
        self.length_edges = np.quantile(self.lengths, quantiles, method="higher") if len(self.lengths) else quantiles

    def length_correlation(self) -> float:
        """Rank correlation of value and length."""
        known = ~np.isnan(self.values)
        return spearman(self.values[known], self.lengths[known])

    def relation(self) -> dict[str, list[float]]:
        """Mean nats under the reference by nats under the teacher: ``{teacher, all, kept}``; empty without two."""
        if len(self.likelihoods) != 2:
            return {}
        known = np.isfinite(self.likelihoods[0]) & np.isfinite(self.likelihoods[1])
        teacher, reference = (-each[known] for each in self.likelihoods)
        if not len(teacher):
            return {}
        edges = np.quantile(teacher, np.linspace(0, 1, 21))
        bins = np.clip(np.searchsorted(edges, teacher, side="right") - 1, 0, 19)
        found: dict[str, list[float]] = {"teacher": [], "all": [], "kept": []}
        for number in range(20):
            members = bins == number
            if members.any():
                own = members & self.kept[known]
                found["teacher"].append(float(teacher[members].mean()))
                found["all"].append(float(reference[members].mean()))
                found["kept"].append(float(reference[own].mean()) if own.any() else float("nan"))
        # JSON has no NaN.
        return {name: [None if np.isnan(v) else v for v in each] for name, each in found.items()}  # type: ignore[misc]


def _add(groups: dict[str, list[int]], names: list[str], codes: npt.NDArray[np.int32], kept: Flags) -> None:
    everything = np.bincount(codes, minlength=len(names))
    own = np.bincount(codes[kept], minlength=len(names))
    for name, rows, of_kept in zip(names, everything.tolist(), own.tolist()):
        counts = groups.setdefault(name, [0, 0])
        counts[0] += rows
        counts[1] += of_kept


def _shares(groups: Mapping[str, list[int]]) -> dict[str, dict[str, int]]:
    """The largest first."""
    ordered = sorted(groups.items(), key=lambda item: (-item[1][0], item[0]))
    return {name: {"rows": rows, "kept": kept} for name, (rows, kept) in ordered}


def _histogram(values: Values, kept: Flags, sample: Values) -> dict[str, list[float]]:
    """``{edges, rows, kept}``; the outermost bins also hold what lies beyond them."""
    finite = sample[np.isfinite(sample)]
    low, high = np.quantile(finite, (0.002, 0.998)) if len(finite) else (0.0, 1.0)
    bins = int(np.clip(2 * np.sqrt(len(values)), _FEWEST_BINS, _MOST_BINS))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts = np.zeros((2, bins), np.int64)
    for first in range(0, len(values), _STRETCH):
        part, own = values[first : first + _STRETCH], kept[first : first + _STRETCH]
        known = ~np.isnan(part)
        places = np.clip(np.searchsorted(edges, part[known], side="right") - 1, 0, bins - 1)
        counts[0] += np.bincount(places, minlength=bins)
        counts[1] += np.bincount(places[own[known]], minlength=bins)
    return {"edges": edges.tolist(), "rows": counts[0].tolist(), "kept": counts[1].tolist()}


def _warnings(config: SelectionConfig, found: Mapping[str, Any]) -> Iterable[str]:
    correlation = found["length_correlation"]
    if config.rule != "random" and abs(correlation) > _LENGTH_CORRELATION:
        yield (
            f"the score mostly follows length: rank correlation {correlation:+.2f} with the bytes of a {config.UNIT}; "
            f"{config.key('per')} and {config.UNIT}s of similar length make it less so"
        )
    for name, share in found["short_domains"].items():
        yield (
            f"of domain {name} {share:.1%} is kept, less than {config.key('domain_minimum')} = "
            f"{config.domain_minimum:.1%}: too few of its {config.UNIT}s have a score"
        )
