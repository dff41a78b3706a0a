"""The decision: one value per row by the rule, then the rows to keep, by share, by domain, with a minimum for each.

Only arrays are read; no text is. What is decided depends on scores, ids and the section alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import NO_DOMAIN
from megatron_ipt.errors import InputError, RecipeError, StageError, did_you_mean
from megatron_ipt.progress import counted
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.order import Flags, Values, beginning, floor_of, gumbel_keys, largest, uniform
from megatron_ipt.selection.rows import Names, ShardRows
from megatron_ipt.selection.score_sets import RowSource, check_same_rows, log_likelihoods, look_up, read_scores

logger = logging.getLogger(__name__)

PURPOSE = "selection"
"""Of the random numbers of the rules."""


@dataclass
class Decision:
    """What is kept.

    Attributes:
        values: what rows are ordered by, [rows]; NaN where there is none.
        kept: [rows].
        total, kept_total: of what ``share_of`` counts.
        short: domains that keep less than their minimum, with the share they keep.
        unmatched: scores of a user's file that belong to no row.
    """

    values: Values
    kept: Flags
    total: int
    kept_total: int
    short: dict[str, float] = field(default_factory=dict)
    unmatched: int = 0

    @property
    def cut(self) -> float:
        """The lowest value that is kept."""
        return float(self.values[self.kept].min())


def decide(config: SelectionConfig, source: RowSource, seed: int) -> Decision:
    """Applies the rule of ``config``.

    Raises:
        RecipeError: the share is less than one row, a domain does not exist, or the minimums do not fit.
        InputError: a user's file holds no score for this corpus.
        StageError: score sets do not match each other, or all scores are the same.
    """
    count = len(source)
    values = np.empty(count, np.float64)
    weights: npt.NDArray[np.int32] | None = None if config.share_of == "documents" else np.empty(count, np.int32)
    domains, codes = Names(), None
    if config.domain_shares or config.domain_minimum:
        codes = np.empty(count, np.int32)
    scores = read_scores(path, config.SECTION) if (path := config.scores_file()) is not None else None
    matched = 0
    for shard, place, sets in source:
        if len(sets) == 2:
            check_same_rows(source, shard, sets)
        values[place], found = _values(config, sets, scores, seed)
        matched += found
        rows = sets[0].rows
        if weights is not None:
            weights[place] = np.maximum(rows["tokens" if config.share_of == "tokens" else "bytes"], 0)
        if codes is not None:
            codes[place] = np.array([domains.place(name) for name in sets[0].domains], np.int32)[rows["domain"]]
    unmatched = 0
    if scores is not None:
        unmatched = max(0, len(scores[0]) - matched)
        _check_matched(config, matched, unmatched, count)
    _check_values(config, values)
    groups = _Groups(config, domains.to_json(), codes)
    kept = np.zeros(count, np.bool_)
    for key, share, members in groups.groups():
        kept[members] = _kept(config, key, share, values[members], _of(weights, members), groups.codes_of(members))
    if not kept.any():
        raise RecipeError(
            f"{config.key('share')}: {config.share:g} of the {config.share_of} keeps no {config.UNIT}: the first is "
            "larger"
        )
    total, kept_total = (count, int(kept.sum())) if weights is None else (_sum(weights), _sum(weights[kept]))
    short = groups.short(kept, weights) if config.domain_minimum and codes is not None else {}
    return Decision(values, kept, total, kept_total, short, unmatched)


def _values(
    config: SelectionConfig, sets: list[ShardRows], scores: tuple[npt.NDArray[np.uint64], Values] | None, seed: int
) -> tuple[Values, int]:
    """(value of each row, how many were found in a user's file)."""
    rows = sets[0].rows
    if config.rule == "random":
        return uniform(seed, PURPOSE, rows["id"]), 0
    found = 0
    if scores is not None:
        values, found = _look_up(rows["id"], *scores)
    elif config.rule == "difference":
        with np.errstate(invalid="ignore"):
            values = log_likelihoods(sets[0].rows, config.per) - log_likelihoods(sets[1].rows, config.per)
    else:
        values = log_likelihoods(rows, config.per)
    if config.prefer == "low":
        values = -values
    if config.rule == "gumbel":
        values = gumbel_keys(values, config.temperature, uniform(seed, PURPOSE, rows["id"]))
    return values, found


def _look_up(ids: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64], scores: Values) -> tuple[Values, int]:
    values = np.full(len(ids), np.nan)
    places, there = look_up(ids, known)
    values[there] = scores[places[there]]
    # An id that occurs in two documents has one score.
    return values, len(np.unique(ids[~np.isnan(values)]))


def _check_matched(config: SelectionConfig, matched: int, unmatched: int, rows: int) -> None:
    if not matched:
        raise InputError(
            f"{config.key('scores')}: {config.scores}: none of its {unmatched:,} ids is that of a training "
            f"{config.UNIT}; the scores are of other data"
        )
    if unmatched:
        logger.warning(
            "%s: %s scores in %s belong to no training %s", config.SECTION, f"{unmatched:,}", config.scores, config.UNIT
        )
    if matched < rows:
        logger.warning(
            "%s: %s have no score in %s and are left out",
            config.SECTION,
            counted(rows - matched, config.UNIT),
            config.scores,
        )


def _check_values(config: SelectionConfig, values: Values) -> None:
    known = len(values) - int(np.isnan(values).sum())
    if not known:
        raise StageError(f"{config.SECTION}: not one {config.UNIT} has a score")
    # These skip NaN.
    lowest, highest = np.fmin.reduce(values), np.fmax.reduce(values)
    if known > 1 and lowest == highest:
        raise StageError(
            f"{config.SECTION}: all {known:,} scores are {lowest:g}, so they do not say which {config.UNIT}s to keep; "
            "are teacher and reference the same model?"
        )


class _Groups:
    """Rows that compete with each other: those of each domain with a share of its own, and all others."""

    def __init__(self, config: SelectionConfig, names: list[str], codes: npt.NDArray[np.int32] | None):
        self._config, self._names, self._codes = config, names, codes
        unknown = [name for name in config.domain_shares if name not in names]
        if unknown:
            known = [name for name in names if name]
            raise RecipeError(
                f"{config.key('domain_shares')}.{unknown[0]}: no training {config.UNIT} has this domain; there are "
                f"{', '.join(sorted(known)) or 'none: set corpus.domains or corpus.domain_key'}."
                f"{did_you_mean(unknown[0], known)}"
            )

    def groups(self) -> list[tuple[str, float, Flags | slice]]:
        """(recipe key, share, rows)."""
        shares = self._config.domain_shares
        if self._codes is None or not shares:
            return [(self._config.key("share"), self._config.share, slice(None))]
        groups: list[tuple[str, float, Flags | slice]] = [
            (self._config.key(f"domain_shares.{name}"), share, self._codes == self._names.index(name))
            for name, share in shares.items()
        ]
        rest = ~np.isin(self._codes, [self._names.index(name) for name in shares])
        return [*groups, *([(self._config.key("share"), self._config.share, rest)] if rest.any() else [])]

    def codes_of(self, members: Flags | slice) -> npt.NDArray[np.int32] | None:
        return _of(self._codes, members) if self._config.domain_minimum else None

    def short(self, kept: Flags, weights: npt.NDArray[np.int32] | None) -> dict[str, float]:
        """Share that is kept of the domains that keep less than the minimum."""
        assert self._codes is not None
        found = {}
        for code, name in enumerate(self._names):
            of_domain = self._codes == code
            total, own = (
                (int(of_domain.sum()), int((of_domain & kept).sum()))
                if weights is None
                else (_sum(weights[of_domain]), _sum(weights[of_domain & kept]))
            )
            if own < floor_of(self._config.domain_minimum, total):
                found[name or NO_DOMAIN] = own / total
        return found


def _kept(
    config: SelectionConfig,
    key: str,
    share: float,
    values: Values,
    weights: npt.NDArray[np.int32] | None,
    codes: npt.NDArray[np.int32] | None,
) -> Flags:
    """Flags of the rows of one group that are kept."""
    total = len(values) if weights is None else _sum(weights)
    budget = floor_of(share, total)
    kept = np.zeros(len(values), np.bool_)
    if share and budget < 1:
        raise RecipeError(f"{key}: {share:g} of {total:,} {config.share_of} is less than one; raise it")
    left = ~np.isnan(values)
    if codes is not None and config.domain_minimum and key == config.key("share"):
        for code in np.unique(codes):
            members = codes == code
            whole = int(members.sum()) if weights is None else _sum(weights[members])
            first = members & left
            kept[first] = _best(values[first], _of(weights, first), floor_of(config.domain_minimum, whole))
        left &= ~kept
        budget -= int(kept.sum()) if weights is None else _sum(weights[kept])
    if left.all():
        return _best(values, weights, budget)
    kept[left] = _best(values[left], _of(weights, left), budget)
    return kept


def _best(values: Values, weights: npt.NDArray[np.int32] | None, budget: int) -> Flags:
    return largest(values, budget) if weights is None else beginning(values, weights, budget)


def _of(array: npt.NDArray[np.int32] | None, members: Flags | slice) -> npt.NDArray[np.int32] | None:
    return None if array is None else array[members]


def _sum(weights: npt.NDArray[np.int32]) -> int:
    return int(weights.sum(dtype=np.int64))
