"""Stage ``scoring``: what each scorer thinks of every training document of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document
from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.inference.engine import Engine
from megatron_ipt.manifest import ShardMarkers, StageContext, read_manifest
from megatron_ipt.selection.config import LEARNED, ScoringConfig
from megatron_ipt.selection.fitting.learned import TRUNK, check_framing
from megatron_ipt.selection.rows import documents_of, identity_of_corpus, is_row, rows_of, shards_of, training_ids
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
from megatron_ipt.selection.windows import Framing, Ids
from megatron_ipt.stages import DOCUMENTS, Units

SECTION = "scoring"
_TEXTS_AT_ONCE = 512
"""Given to the tokenizer together."""


def run(
    config: ScoringConfig, context: StageContext, shard: tuple[int, int] | None = None, unit: str | None = None
) -> dict[str, Any]:
    """Scores the training documents of the corpus.

    Args:
        config: section ``scoring``.
        context: of the stage.
        shard: (i, N) scores only every N-th shard from the i-th on, counting from 0; other processes score the rest.
        unit: name of the only scorer to use.

    Returns:
        The counts of all finished shards, with ``unfinished_shards`` while some are missing.

    Raises:
        RecipeError: i is not in [0, N), there is no such scorer, or a window is longer than the engine can score.
        InputError: a model or a tokenizer cannot be used, or a document was in the training data of a scorer.
        StageError: the engine failed or gave NaN, or another process works on one of the shards.
    """
    corpus = context.inputs[DOCUMENTS]
    shards = shards_of(corpus)
    own = chosen_tasks(config.scorers, shards, shard, unit, SECTION)
    context.directory.mkdir(parents=True, exist_ok=True)
    markers = ShardMarkers(context.directory)
    for name, scorer in config.scorers.items():
        left = [task for task in own if task.scorer == name and markers.counts(task.name) is None]
        if left:
            _Documents(name, scorer, context, left, SECTION, share=len(left) / len(shards)).run()
    identity = identity_of_corpus(corpus)
    return summary_of(config.scorers, tasks_of(config.scorers, shards), context.directory, identity)


def units(config: ScoringConfig, context: StageContext) -> Units:
    """The shards of the stage."""
    return Units(tuple(task.name for task in tasks_of(config.scorers, shards_of(context.inputs[DOCUMENTS]))))


def gpus_per_task(config: ScoringConfig) -> int:
    """GPUs that one process needs by default: those of its largest scorer."""
    return gpus_of_largest(config.scorers.values())


def check(config: ScoringConfig) -> None:
    """Finds errors before the corpus is made; see :func:`.scoring.check_scorers`."""
    check_scorers(config.scorers, SECTION)


class _Documents(Scoring):
    """Training documents of a corpus.

    Args:
        share: of the shards of the corpus that are to be scored.
    """

    def __init__(self, *arguments: Any, share: float):
        super().__init__(*arguments)
        self._share = share
        self._forbidden = np.zeros(0, np.uint64)

    def prepare(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        bos = tokenizer.bos_id if self.scorer.prepend_bos else None
        self._framing = Framing(bos, tokenizer.eos_id, self.scorer.append_eod, self.scorer.eod_mask)
        model = Path(self.settings.generation.model)
        if self.scorer.engine == LEARNED:
            check_framing(model, self.scorer.prepend_bos, self.scorer.append_eod, self.settings.prefix)
            model /= TRUNK
        self._vocab_size = _vocabulary(model)
        if self.scorer.trained_on:
            self._forbidden = training_ids(Path(self.scorer.trained_on), self.settings.key("trained_on"))

    def total(self) -> int | None:
        """As the corpus was counted."""
        counts = (read_manifest(self.context.inputs[DOCUMENTS]) or {}).get("counts", {})
        documents, splits = counts.get("documents"), counts.get("splits", {})
        if not documents or "characters" not in counts:
            return None
        return max(1, round(counts["characters"] * splits.get("train", documents) / documents * self._share))

    def read(self, task: ScoreTask, engine: Engine) -> ShardText:
        documents = [document for _, document in documents_of(task.shard.path) if is_row(document)]
        made = rows_of(documents)
        self._refuse_known(task, documents, made.rows["id"])
        ids = self._encode(engine, documents, task)
        counted = [self._framing.counted(each) for each in ids]
        names = [f"id {document.id}" for document in documents]
        return ShardText(made, ids, counted, names, [len(document.text) for document in documents])

    def _encode(self, engine: Engine, documents: list[Document], task: ScoreTask) -> list[Ids]:
        made: list[Ids] = []
        for first in range(0, len(documents), _TEXTS_AT_ONCE):
            texts = [document.text for document in documents[first : first + _TEXTS_AT_ONCE]]
            made += [self._framing.framed(ids) for ids in engine.tokenizer.encode(texts)]
        if self._vocab_size is not None:
            for row, ids in enumerate(made):
                if len(ids) and ids.max() >= self._vocab_size:
                    raise InputError(
                        f"{task.shard.path}: row {row} (id {documents[row].id}): the tokenizer made id {ids.max()}, "
                        f"but the scorer {self.name} has a vocabulary of {self._vocab_size}. Set "
                        f"scoring.scorers.{self.name}.generation.tokenizer to the tokenizer of its model."
                    )
        return made

    def _refuse_known(self, task: ScoreTask, documents: list[Document], ids: npt.NDArray[np.uint64]) -> None:
        known = np.flatnonzero(np.isin(ids, self._forbidden))
        if len(known):
            raise InputError(
                f"{task.shard.path}: row {known[0]} (id {documents[known[0]].id}) was in the training data of the "
                f"scorer {self.name} ({self.scorer.trained_on}), as were {len(known) - 1:,} more of this shard. "
                "Reserve a slice of the corpus for that training, and score the rest: corpus.slice."
            )


def _vocabulary(model: Path) -> int | None:
    """Vocabulary size of a Hugging Face folder; None of anything else."""
    path = model / "config.json"
    size = read_json(path).get("vocab_size") if path.is_file() else None
    return size if isinstance(size, int) else None
