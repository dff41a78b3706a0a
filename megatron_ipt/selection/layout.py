"""Writes what is kept in the layout of a corpus, and what is left out beside it.

Lines are copied as they are, so a kept document is the same byte for byte; held-out documents pass untouched. Each
shard is checked against the hash of the ids that were scored: scores are never taken for those of other documents.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import SPLITS, DomainCounts
from megatron_ipt.corpus.stage import LANES
from megatron_ipt.errors import StageError
from megatron_ipt.files import COMPRESSIONS, atomic_jsonl
from megatron_ipt.manifest import StageContext
from megatron_ipt.parallel import map_shards
from megatron_ipt.progress import Progress
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision
from megatron_ipt.selection.findings.measures import REASONS, reasons
from megatron_ipt.selection.order import Flags, Values
from megatron_ipt.selection.rows import CorpusShard, documents_of, hash_of, ids_digest, is_row
from megatron_ipt.selection.score_sets import RowSource, log_likelihoods

LEFT_OUT = "left_out"
"""Folder of the ids that are not kept, with reason and scores."""
SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class LayoutTask:
    """One shard of the corpus and what was decided of its rows.

    Attributes:
        shard: where the documents are.
        kept, values: of its rows.
        arrays: files of its scores by scorer.
        ids: digest of the ids that were scored.
        shown: rows whose texts are wanted.
    """

    shard: CorpusShard
    kept: Flags
    values: Values
    arrays: dict[str, Path]
    ids: str
    shown: tuple[int, ...]


def write_corpus(
    config: SelectionConfig, context: StageContext, source: RowSource, decision: Decision, chosen: dict[str, list[int]]
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """Writes the lanes and the left-out ids; returns the counts of a corpus, and the chosen texts by row."""
    for folder in (*LANES, LEFT_OUT):
        shutil.rmtree(context.directory / folder, ignore_errors=True)
    wanted = sorted({row for rows in chosen.values() for row in rows})
    tasks, firsts = [], {}
    for shard, place, _ in source:
        shown = tuple(row - place.start for row in wanted if place.start <= row < place.stop)
        arrays = {} if source.scoring is None else {
            name: source.scoring / name / f"{shard.name}.npy" for name in source.scorers
        }  # fmt: skip
        firsts[shard.name] = place.start
        tasks.append(
            LayoutTask(shard, decision.kept[place], decision.values[place], arrays, source.digest(shard), shown)
        )
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    domains = DomainCounts()
    texts: dict[int, dict[str, Any]] = {}
    arguments = (context.directory, config.per, COMPRESSIONS[context.compression])
    with Progress("selection", len(tasks), "shards") as bar:
        for task, made in map_shards(write_shard, tasks, arguments, config.workers):
            counts.update(made["counts"])
            splits.update(made["splits"])
            domains.update(made["domains"])
            texts |= {firsts[task.shard.name] + row: record for row, record in made["texts"].items()}
            bar.advance(1, documents=f"{counts['documents']:,}")
    lanes = {f"{lane}_documents": counts[f"{lane}_documents"] for lane in LANES}
    return {
        "documents": counts["documents"],
        "characters": counts["characters"],
        **{name: number for name, number in lanes.items() if number},
        "splits": {split: splits[split] for split in SPLITS if splits[split]},
        **domains.summary(),
    }, texts


def write_shard(task: LayoutTask, directory: Path, per: str, suffix: str) -> dict[str, Any]:
    """Writes the kept and held-out documents of one shard, and the ids of the others.

    Raises:
        StageError: the documents are not those that were scored.
    """
    sets = {name: np.load(path) for name, path in task.arrays.items()}
    why = reasons(sets.values(), task.values, task.kept)
    likelihoods = {name: log_likelihoods(rows, per) for name, rows in sets.items()}
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    domains = DomainCounts()
    texts: dict[int, dict[str, Any]] = {}
    ids: list[int] = []
    shown = set(task.shown)
    output = directory / task.shard.lane / task.shard.path.name
    left_out = directory / LEFT_OUT / f"{task.shard.name}.jsonl{suffix}"
    with atomic_jsonl(output) as writer, atomic_jsonl(left_out) as others:
        for line, document in documents_of(task.shard.path):
            if is_row(document):
                row = len(ids)
                ids.append(hash_of(document.id))
                if row >= len(task.kept):
                    continue
                if row in shown:
                    texts[row] = {
                        "id": document.id,
                        "text": document.text[:SHOWN_CHARACTERS],
                        "kept": bool(task.kept[row]),
                        **figures(task.values, likelihoods, row),
                    }
                if not task.kept[row]:
                    others.write(
                        {"id": document.id, "reason": REASONS[why[row]], **figures(task.values, likelihoods, row)}
                    )
                    continue
            writer.write_line(line)
            counts["documents"] += 1
            counts["characters"] += len(document.text)
            counts[f"{task.shard.lane}_documents"] += 1
            splits[document.split] += 1
            domains.add(document.domain, 1, len(document.text))
    if len(ids) != len(task.kept) or ids_digest(np.array(ids, np.uint64)) != task.ids:
        output.unlink()
        raise StageError(
            f"{task.shard.path}: holds other documents than those that were scored. Score it again: "
            "`megatron-ipt score` with --overwrite"
        )
    for path, written in ((output, writer.records), (left_out, others.records)):
        if not written:
            path.unlink()
    return {"counts": dict(counts), "splits": dict(splits), "domains": domains.to_json(), "texts": texts}


def figures(values: Values, likelihoods: dict[str, npt.NDArray[np.float64]], row: int) -> dict[str, float | None]:
    """Score of a row, and its log-likelihood under each scorer, in nats per what the section says."""
    found = {"score": float(values[row])} | {name: float(each[row]) for name, each in likelihoods.items()}
    return {name: None if np.isnan(value) else value for name, value in found.items()}
