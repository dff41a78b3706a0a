"""Stage ``row_selection``: keeps a share of the training rows, and lays them out as token data.

Held-out data and tokenizer are those of the stage before; training, export and evaluation read the folder as they read
that one.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.corpus.documents import SPLITS
from megatron_ipt.errors import StageError
from megatron_ipt.files import atomic_jsonl, atomic_open, write_json
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.progress import Progress
from megatron_ipt.row_selection.config import RowScoringConfig, RowSelectionConfig
from megatron_ipt.row_selection.rows import Dataset, TokenRows, row_id
from megatron_ipt.selection.config import SelectionConfig
from megatron_ipt.selection.decide import Decision
from megatron_ipt.selection.findings.measures import REASONS, chosen_rows, reasons
from megatron_ipt.selection.layout import LEFT_OUT, SHOWN_CHARACTERS, figures
from megatron_ipt.selection.rows import CorpusShard, ShardRows, ids_digest
from megatron_ipt.selection.score_sets import RowSource, log_likelihoods, open_source
from megatron_ipt.selection.stage import counts_of, decide_and_measure, save_details, shown
from megatron_ipt.stages import ROW_SCORES, TOKENS
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.tokens.dataset.verify import checksums
from megatron_ipt.tuning.rows import MASK_SUFFIX, RowWriter


def run(config: RowSelectionConfig, context: StageContext) -> dict[str, Any]:
    """Decides, and writes the rows that are kept; returns the counts, those of token data among them.

    Raises:
        RecipeError: a scorer or a source does not exist, scorers cannot be compared, or the share keeps nothing.
        InputError: a user's file of scores cannot be used.
        StageError: scores are missing, of other data or all the same.
    """
    source, decision, found = _decide(config, context)
    rows = source.token_rows
    chosen = chosen_rows(decision, config.samples) if config.rule != "random" else {}
    shutil.rmtree(context.directory / LEFT_OUT, ignore_errors=True)
    written = _Writing(config, context.directory, source, decision, {row for group in chosen.values() for row in group})
    entries = [written.dataset(prefix, dataset) for prefix, dataset in rows.datasets.items()]
    samples = {name: [written.texts[row] for row in group] for name, group in chosen.items()}
    save_details(config, context.directory, source, found, samples)
    held_out = {split: rows.description.get(split, []) for split in SPLITS[1:]}
    for entry in (entry for split in held_out.values() for entry in split):
        _bring(rows.folder, context.directory, entry)
    name = rows.description["tokenizer"]
    shutil.rmtree(context.directory / name, ignore_errors=True)
    shutil.copytree(rows.folder / name, context.directory / name)
    kept = [entry for entry in entries if entry["documents"]]
    write_json(context.directory / DATASET, rows.description | {"train": kept} | held_out)
    by_source: dict[str, Counter[str]] = {}
    for entry in kept:
        for source_name, counts in entry["by_source"].items():
            by_source.setdefault(source_name, Counter()).update(counts)
    return {
        "vocab_size": rows.description["vocab_size"],
        "train": {name: sum(entry[name] for entry in kept) for name in ("documents", "tokens", "loss_tokens")},
        **{
            split: {name: sum(entry[name] for entry in each) for name in ("documents", "tokens")}
            for split, each in held_out.items()
        },
        "train_by_source": {name: dict(counts) for name, counts in by_source.items()},
        **counts_of(found),
        "left_out_rows": found["rows"] - found["kept"],
    }


def dry_run(config: RowSelectionConfig, context: StageContext) -> dict[str, Any]:
    """What :func:`run` would keep; nothing is written."""
    return shown(_decide(config, context)[2])


@dataclass
class TokenRowSource(RowSource):
    """Rows of token data with their scores; ``corpus`` is the folder of the token data."""

    token_rows: TokenRows = field(init=False)
    eod_mask: bool = field(init=False)

    @property
    def shards(self) -> list[CorpusShard]:
        return self.token_rows.shards()

    def unscored(self) -> dict[str, ShardRows]:
        return {
            shard.name: self.token_rows.described(shard, list(self.token_rows.rows_of(shard, self.eod_mask)))
            for shard in self.shards
        }


def _decide(config: RowSelectionConfig, context: StageContext) -> tuple[TokenRowSource, Decision, dict[str, Any]]:
    folder: Path = context.inputs[TOKENS]
    scoring = Path(config.scored_in) if config.scored_in else context.inputs.get(ROW_SCORES)
    scored = (read_manifest(scoring) or {}).get("counts") or {} if scoring is not None else {}
    seq_length = scored.get("seq_length", config.seq_length)
    rows = TokenRows(folder, seq_length, scored.get("rows_per_shard", RowScoringConfig().rows_per_shard))

    def opened(own: SelectionConfig) -> TokenRowSource:
        def make(*fields: Any) -> TokenRowSource:
            made = TokenRowSource(*fields)
            made.token_rows, made.eod_mask = rows, config.eod_mask
            return made

        found = open_source(own, folder, scoring, make, lambda: rows.identity)
        assert isinstance(found, TokenRowSource)
        return found

    source, decision, found = decide_and_measure(config, opened, context.seed)
    assert isinstance(source, TokenRowSource)
    return source, decision, found


class _Writing:
    """Writes kept rows and the ids of the others, dataset by dataset.

    Attributes:
        texts: of the rows that are shown, by place.
    """

    def __init__(
        self, config: RowSelectionConfig, directory: Path, source: TokenRowSource, decision: Decision, shown: set[int]
    ):
        self.texts: dict[int, dict[str, Any]] = {}
        self._config, self._directory, self._source, self._decision = config, directory, source, decision
        self._rows, self._shown = source.token_rows, shown
        self._bar = Progress(config.SECTION, len(source), "rows")

    def dataset(self, prefix: str, dataset: Dataset) -> dict[str, Any]:
        """Writes what is kept of one dataset; its entry for ``dataset.json``."""
        tokens: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        codes: list[int] = []
        with self._bar as bar, RowWriter(self._directory / prefix, self._rows.description["dtype"]) as writer:
            for shard, place, sets in self._source:
                if shard.lane != prefix:
                    continue
                self._check(shard, sets)
                kept = self._decision.kept[place]
                rows = self._rows.rows_of(shard, self._config.eod_mask)
                numbers = self._rows.numbers(shard)
                for at, number, row, own in zip(range(place.start, place.stop), numbers, rows, kept, strict=True):
                    name = dataset.names[row.source]
                    if own:
                        writer.add(row.ids, row.mask, row.lengths)
                        codes.append(row.source)
                        documents[name] += 1
                        tokens[name] += len(row.ids)
                    else:
                        left_out[name] += 1
                    if at in self._shown:
                        text = self._rows.text(row)[:SHOWN_CHARACTERS]
                        self.texts[at] = {"id": row_id(prefix, number), "text": text, "kept": bool(own)}
                self._leave_out(shard, place, sets)
                bar.advance(len(kept), kept=f"{writer.rows:,}")
        with atomic_open(self._directory / f"{prefix}.sources.npy") as stream:
            np.save(stream, np.array(codes, np.uint8))
        loss_mask = f"{prefix}{MASK_SUFFIX}"
        return {
            **{name: dataset.entry[name] for name in ("name", "weight") if name in dataset.entry},
            "prefix": prefix,
            "loss_mask": loss_mask,
            "seq_length": dataset.seq_length,
            "documents": writer.rows,
            "tokens": writer.tokens,
            "loss_tokens": writer.loss_tokens,
            "by_source": {
                name: {"documents": documents[name], "tokens": tokens[name], "left_out_documents": left_out[name]}
                for name in dataset.names
            },
            "files": checksums(self._directory / prefix),
            "loss_mask_files": checksums(self._directory / loss_mask),
        }

    def _check(self, shard: CorpusShard, sets: list[ShardRows]) -> None:
        """Refuses scores of other rows.

        Raises:
            StageError: the data has other rows than those that were scored.
        """
        if len(sets[0].rows) != len(self._rows.numbers(shard)) or (
            self._source.scorers and ids_digest(sets[0].rows["id"]) != self._source.digest(shard)
        ):
            raise StageError(
                f"{self._rows.folder}: {shard.name} has other rows than those that were scored. Score them again: "
                f"`{self._config.SCORE}` with --overwrite"
            )

    def _leave_out(self, shard: CorpusShard, place: slice, sets: list[ShardRows]) -> None:
        """Writes the ids of the rows that are not kept; adds scores to the texts that are shown."""
        values, kept = self._decision.values[place], self._decision.kept[place]
        scored = [each.rows for each in sets] if self._source.scorers else []
        why = reasons(scored, values, kept)
        likelihoods = {
            name: log_likelihoods(rows, self._config.per) for name, rows in zip(self._source.scorers, scored)
        }
        with atomic_jsonl(self._directory / LEFT_OUT / f"{shard.name}.jsonl") as others:
            for index, number in enumerate(self._rows.numbers(shard)):
                if (at := place.start + index) in self.texts:
                    self.texts[at] |= figures(values, likelihoods, index)
                if not kept[index]:
                    others.write(
                        {
                            "id": row_id(shard.lane, number),
                            "reason": REASONS[why[index]],
                            **figures(values, likelihoods, index),
                        }
                    )


def _bring(source: Path, target: Path, entry: Mapping[str, Any]) -> None:
    """Brings the files of held-out data along, without copying them where the file system allows."""
    for prefix in filter(None, (entry["prefix"], entry.get("loss_mask"))):
        for suffix in (".bin", ".idx", ".sources.npy"):
            if (file := source / f"{prefix}{suffix}").is_file():
                copy = target / file.name
                copy.unlink(missing_ok=True)
                try:
                    os.link(file, copy)
                except OSError:
                    shutil.copyfile(file, copy)
