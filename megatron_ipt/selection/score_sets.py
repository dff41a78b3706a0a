"""Score sets as selection reads them, checked: of this corpus, complete, and comparable with each other.

Shards are read one at a time; what is kept in memory is one number per row and what the rule needs besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from megatron_ipt.errors import InputError, RecipeError, StageError, did_you_mean
from megatron_ipt.files import iter_lines
from megatron_ipt.manifest import ShardMarkers, read_manifest
from megatron_ipt.parallel import map_shards
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.rows import (
    ROW,
    CorpusShard,
    Rows,
    ShardRows,
    hash_of,
    identity_of_corpus,
    ids_digest,
    shards_of,
    unscored,
)

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass
class RowSource:
    """The rows of a corpus with the scores of no scorer, one or two, shard by shard.

    Attributes:
        corpus: folder of its stage.
        scoring: folder of the scores.
        scorers: names of the score sets, the teacher first.
        workers: processes that read documents where there are no scores.
        score: the command that scores.
        same_tokenizer: whether all scorers have the same, so that they counted the same tokens.
        learned: whether the scores are predictions of a learned scorer instead of log-likelihoods.
    """

    corpus: Path
    scoring: Path | None = None
    scorers: tuple[str, ...] = ()
    workers: int = 1
    same_tokenizer: bool = True
    score: str = SelectionConfig.SCORE
    learned: bool = False
    _read: dict[str, ShardRows] = field(default_factory=dict)

    @cached_property
    def shards(self) -> list[CorpusShard]:
        return shards_of(self.corpus)

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each shard."""
        if self.scorers:
            return [self._marker(self.scorers[0], shard)["rows"] for shard in self.shards]
        if len(self._read) < len(self.shards):
            self._read = self.unscored()
        return [len(self._read[shard.name].rows) for shard in self.shards]

    def unscored(self) -> dict[str, ShardRows]:
        """The rows of every shard, without scores."""
        return {shard.name: read for shard, read in map_shards(unscored, self.shards, (), self.workers)}

    def __len__(self) -> int:
        return sum(self.sizes)

    def __iter__(self) -> Iterator[tuple[CorpusShard, slice, list[ShardRows]]]:
        """(shard, its rows' places, the rows by scorer); the rows without scores where there is no scorer."""
        first = 0
        for shard, size in zip(self.shards, self.sizes):
            sets = [self._load(name, shard) for name in self.scorers] or [self._read[shard.name]]
            yield shard, slice(first, first + size), sets
            first += size

    def digest(self, shard: CorpusShard) -> str:
        """What the ids of a shard are recognised by."""
        if self.scorers:
            return str(self._marker(self.scorers[0], shard)["ids"])
        return ids_digest(self._read[shard.name].rows["id"])

    def _marker(self, scorer: str, shard: CorpusShard) -> dict[str, Any]:
        assert self.scoring is not None
        counts = ShardMarkers(self.scoring).counts(f"{scorer}/{shard.name}")
        if counts is None:
            raise StageError(
                f"{self.scoring / scorer}: {shard.name} is not scored; run `{self.score}` with --scorer {scorer}"
            )
        return counts

    def _load(self, scorer: str, shard: CorpusShard) -> ShardRows:
        assert self.scoring is not None
        path = self.scoring / scorer / f"{shard.name}.npy"
        marker = self._marker(scorer, shard)
        try:
            rows = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StageError(
                f"{path}: cannot be read: {error}. Remove its marker beside it and score the shard again."
            ) from error
        if rows.dtype != ROW or len(rows) != marker["rows"] or ids_digest(rows["id"]) != marker["ids"]:
            raise StageError(
                f"{path}: does not hold the {marker['rows']:,} rows that its marker names. Remove the marker beside it "
                "and score the shard again."
            )
        return ShardRows(rows, marker["domains"], marker["sources"])


def open_source(
    config: SelectionConfig,
    corpus: Path,
    scoring: Path | None,
    make: Callable[..., RowSource] = RowSource,
    identity: Callable[[], str] | None = None,
) -> RowSource:
    """The rows that a rule needs, with the score sets it names.

    Args:
        corpus: folder of the stage that made what was scored.
        make: takes the fields of :class:`RowSource`.
        identity: of what was scored; by default that of the corpus.

    Raises:
        RecipeError: a scorer does not exist, or two cannot be compared as the section asks.
        StageError: score sets are of another corpus or incomplete.
    """
    names = config.scorers()
    known: Mapping[str, Any] = {}
    if scoring is not None:
        manifest = read_manifest(scoring) or {}
        known = (manifest.get("counts") or {}).get("scorers", {})
    if not names and not config.scores and config.rule in ("top_k", "gumbel"):
        if len(known) != 1:
            raise RecipeError(
                f"{config.key('scorer')}: name one of the scorers "
                f"({', '.join(known) or f'{config.SCORED_BY}.scorers has none'})"
            )
        names = tuple(known)
    for name, key in zip(names, ("teacher", "reference") if config.rule == "difference" else ("scorer",)):
        if name not in known:
            listed = ", ".join(known) or f"none: {config.SCORED_BY}.scorers is empty"
            raise RecipeError(
                f"{config.key(key)}: {name!r} is not a scorer; there are {listed}.{did_you_mean(name, known)}"
            )
    if names:
        own = identity_of_corpus(corpus) if identity is None else identity()
        for name in names:
            if known[name]["corpus_identity"] != own:
                raise StageError(
                    f"{scoring}: the scores of {name} are of other data than {corpus}; run `{config.SCORE}` "
                    "again with --overwrite"
                )
        if len(names) == 2:
            check_comparable(config, *((name, known[name]) for name in names))
    tokenizers = {known[name]["tokenizer_fingerprint"] for name in names}
    same = len(tokenizers) <= 1
    learned = [name for name in names if known[name].get("measure") == "score"]
    if learned:
        _check_learned(config, learned[0])
    return make(corpus, scoring if names else None, names, config.workers, same, config.SCORE, bool(learned))


def _check_learned(config: SelectionConfig, name: str) -> None:
    """Refuses to take the predictions of a learned scorer for log-likelihoods.

    Raises:
        RecipeError: names the key.
    """
    if config.rule == "difference":
        raise RecipeError(
            f"{config.key('rule')}: {name} is a learned scorer, whose predictions are no log-likelihoods to be "
            "compared; set it to gumbel or top_k"
        )
    if config.per != "token":
        raise RecipeError(
            f"{config.key('per')}: {name} is a learned scorer, whose predictions are not divided by {config.per}s; set "
            "it to token"
        )


def check_comparable(
    config: SelectionConfig, teacher: tuple[str, Mapping[str, Any]], reference: tuple[str, Mapping[str, Any]]
) -> None:
    """Refuses two score sets whose difference would mean nothing.

    Raises:
        RecipeError: masks differ, or tokenizers do and the section does not ask for nats per byte of whole documents.
    """
    (one, first), (two, second) = teacher, reference
    for what, key in (("mask", "eod_mask"), ("seq_length", "seq_length")):
        if first[what] != second[what]:
            raise RecipeError(
                f"{config.SCORED_BY}.scorers: {one} was scored with {what} {first[what]} and {two} with "
                f"{second[what]}; set the same {key} for both and score one of them again"
            )
    if first["tokenizer_fingerprint"] == second["tokenizer_fingerprint"]:
        return
    if config.per != "byte":
        raise RecipeError(
            f"{config.key('per')}: {one} and {two} have different tokenizers, so their nats per {config.per} cannot be "
            "compared; set it to byte"
        )
    if config.share_of == "tokens":
        raise RecipeError(
            f"{config.key('share_of')}: {one} and {two} have different tokenizers, so it is not clear whose tokens are "
            "meant; set it to bytes or documents"
        )
    for name, scores in (teacher, reference):
        if scores["masked"]:
            raise RecipeError(
                f"{config.SCORED_BY}.scorers.{name}.eod_mask: {scores['masked']:,} tokens were not counted, and with "
                "different tokenizers only whole documents can be compared; set it to false for both and score again"
            )


def check_same_rows(source: RowSource, shard: CorpusShard, sets: list[ShardRows]) -> None:
    """Refuses two score sets of one shard that are not of the same documents and tokens.

    Raises:
        StageError: names shard and row.
    """
    first, second = (each.rows for each in sets)
    one, two = source.scorers
    if len(first) != len(second) or not np.array_equal(first["id"], second["id"]):
        raise StageError(f"{source.scoring}: {shard.name}: {one} and {two} scored different documents; score one again")
    counted = (first["tokens"] > 0) & (second["tokens"] > 0)
    if source.same_tokenizer:
        wrong = np.flatnonzero((first["tokens"] != second["tokens"]) & counted)
        if len(wrong):
            row = wrong[0]
            raise StageError(
                f"{source.scoring}: {shard.name}, row {row}: {one} counted {first['tokens'][row]} tokens and {two} "
                f"{second['tokens'][row]}; score both with the same tokenizer, prepend_bos, append_eod and eod_mask"
            )


def log_likelihoods(rows: Rows, per: str) -> Values:
    """Log-likelihood of each row, in nats per token, byte or document; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nll = np.where(rows["tokens"] > 0, rows["nll"], np.nan)
        found: Values = -nll if per == "document" else -nll / rows["tokens" if per == "token" else "bytes"]
    return found


def look_up(ids: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], Flags]:
    """(places of ``ids`` in ``known``, which of them are there); ``known`` is ascending."""
    if not len(known):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids


def read_scores(path: Path, section: str) -> tuple[npt.NDArray[np.uint64], Values]:
    """(hashed ids, ascending; their scores) of a user's file.

    Raises:
        InputError: it cannot be read, a score is not a finite number, or an id occurs twice.
    """
    ids, scores = _from_npy(path) if path.suffix == ".npy" else _from_lines(path)
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"{section}.scores: {path}: record {row + 1}: the score is {scores[row]}")
    order = np.argsort(ids, kind="stable")
    ids, scores = ids[order], scores[order]
    if len(ids) and (ids[1:] == ids[:-1]).any():
        raise InputError(f"{section}.scores: {path}: {int((ids[1:] == ids[:-1]).sum()):,} ids occur more than once")
    return ids, scores


def _from_lines(path: Path) -> tuple[npt.NDArray[np.uint64], Values]:
    ids, scores = [], []
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            document_id, score = record["id"], record["score"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: expected an object with id and score: {error}") from error
        if not isinstance(document_id, str) or isinstance(score, bool) or not isinstance(score, (int, float)):
            raise InputError(f"{path}:{number}: expected a string as id and a number as score, found {line[:80]!r}")
        ids.append(hash_of(document_id))
        scores.append(float(score))
    return np.array(ids, np.uint64), np.array(scores, np.float64)


def _from_npy(path: Path) -> tuple[npt.NDArray[np.uint64], Values]:
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as .npy: {error}") from error
    if table.dtype.names is None or not {"id", "score"} <= set(table.dtype.names):
        raise InputError(f"{path}: expected an array with the fields id and score, found {table.dtype}")
    ids = table["id"]
    if ids.dtype.kind == "U":
        hashed = np.array([hash_of(document_id) for document_id in ids.tolist()], np.uint64)
    elif ids.dtype.kind == "u" and ids.dtype.itemsize == 8:
        hashed = np.array(ids)
    else:
        raise InputError(
            f"{path}: the field id is {ids.dtype}; expected strings, or hashes of ids as uint64 "
            "(megatron_ipt.selection.rows.hash_of)"
        )
    return hashed, np.array(table["score"], np.float64)
