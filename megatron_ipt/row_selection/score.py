"""Stage ``row_scoring``: what each scorer thinks of every training row."""

from __future__ import annotations

from typing import Any

import numpy as np

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Engine
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.row_selection.config import RowScoringConfig
from megatron_ipt.row_selection.rows import TokenRows, row_id
from megatron_ipt.selection.identity import fingerprints_of
from megatron_ipt.selection.scoring import (
    ScoreTask,
    Scoring,
    ShardText,
    check_scorers,
    chosen_tasks,
    gpus_of_largest,
    summary_of,
    tasks_of,
)
from megatron_ipt.stages import TOKENS, Units
from megatron_ipt.tokens.tokenizer.encoders import Ids as AnyIds
from megatron_ipt.tokens.tokenizer.probes import first_difference

SECTION = "row_scoring"


def run(
    config: RowScoringConfig, context: StageContext, shard: tuple[int, int] | None = None, unit: str | None = None
) -> dict[str, Any]:
    """Scores the rows; see :func:`megatron_ipt.selection.score.run`.

    Raises:
        RecipeError: besides, a scorer has another tokenizer than the rows, or cannot take a whole row at once.
    """
    rows = _rows(config, context)
    shards = rows.shards()
    own = chosen_tasks(config.scorers, shards, shard, unit, SECTION)
    context.directory.mkdir(parents=True, exist_ok=True)
    markers = ShardMarkers(context.directory)
    for name, scorer in config.scorers.items():
        left = [task for task in own if task.scorer == name and markers.counts(task.name) is None]
        if left:
            _Rows(name, scorer, context, left, SECTION, rows=rows).run()
    found = summary_of(config.scorers, tasks_of(config.scorers, shards), context.directory, rows.identity)
    return found | {"seq_length": config.seq_length, "rows_per_shard": config.rows_per_shard}


def units(config: RowScoringConfig, context: StageContext) -> Units:
    """The shards of the stage."""
    return Units(tuple(task.name for task in tasks_of(config.scorers, _rows(config, context).shards())))


def fingerprints(config: RowScoringConfig) -> list[dict[str, Any]]:
    """Fingerprints of the scorers."""
    return fingerprints_of(config.scorers, SECTION)


def gpus_per_task(config: RowScoringConfig) -> int:
    """GPUs that one process needs by default: those of its largest scorer."""
    return gpus_of_largest(config.scorers.values())


def check(config: RowScoringConfig) -> None:
    """Finds errors before there are rows; see :func:`megatron_ipt.selection.scoring.check_scorers`."""
    check_scorers(config.scorers, SECTION)


def _rows(config: RowScoringConfig, context: StageContext) -> TokenRows:
    return TokenRows(context.inputs[TOKENS], config.seq_length, config.rows_per_shard)


class _Rows(Scoring):
    """Rows of token data."""

    unit = "tokens"

    def __init__(self, *arguments: Any, rows: TokenRows):
        super().__init__(*arguments)
        self._rows = rows

    def prepare(self, engine: Engine) -> None:
        def encode(texts: list[str]) -> list[AnyIds]:
            return [np.array(ids, np.int32) for ids in engine.tokenizer.encode(texts)]

        text = first_difference(self._rows.tokenizer.encode, encode)
        if text is not None:
            folder = self._rows.folder / self._rows.description["tokenizer"]
            raise RecipeError(
                f"{self.settings.key('generation.tokenizer')}: the scorer {self.name} has another tokenizer than the "
                f"rows ({folder}), which encodes {text[:40]!r} differently, so their ids mean something else to it. "
                "Choose documents instead (sections scoring and selection), or tokenize with the tokenizer of the "
                "scorers."
            )
        longest = self.scorer.generation.context_length
        if longest < max(dataset.seq_length for dataset in self._rows.datasets.values()) + 1:
            raise RecipeError(
                f"{self.settings.key('generation.context_length')}: {longest} is less than the {SECTION}.seq_length "
                "plus one; a row is scored whole, as it is trained on"
            )

    def total(self) -> int | None:
        return sum(self._tokens_of(task) for task in self.tasks)

    def _tokens_of(self, task: ScoreTask) -> int:
        return len(self._rows.numbers(task.shard)) * self._rows.datasets[task.shard.lane].seq_length

    def read(self, task: ScoreTask, engine: Engine) -> ShardText:
        rows = list(self._rows.rows_of(task.shard, self.scorer.eod_mask))
        names = [row_id(task.shard.lane, number) for number in self._rows.numbers(task.shard)]
        sizes = [len(row.ids) - 1 for row in rows]
        made = self._rows.described(task.shard, rows)
        return ShardText(made, [row.ids for row in rows], [row.mask for row in rows], names, sizes)
