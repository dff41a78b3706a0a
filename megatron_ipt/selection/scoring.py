"""Scoring of shards by one model, whatever a shard is made of: documents of a corpus, or rows of token data.

The unit of work is a shard under one scorer. Its windows are sorted by length and handed to the engine in that order;
results go back to the row they came from. A finished shard is one array and a marker, so a rerun repeats at most one
shard, and shards may be scored anywhere, in any order.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError, StageError, did_you_mean
from megatron_ipt.files import atomic_open
from megatron_ipt.inference.engine import Engine, EngineError, RequestRefused
from megatron_ipt.inference.engines import check_scores, gpus_of, open_engine
from megatron_ipt.inference.run import in_order, run_coroutine
from megatron_ipt.inference.scoring import Score
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.parallel import share_of
from megatron_ipt.progress import Progress
from megatron_ipt.selection.config import LEARNED, ScorerConfig
from megatron_ipt.selection.fitting.learned import SCORER_FOLDER
from megatron_ipt.selection.identity import identity_of, settings_of
from megatron_ipt.selection.rows import REFUSED, CorpusShard, ShardRows, ids_digest, save_rows
from megatron_ipt.selection.windows import Flags, Ids, Window, by_length, windows
from megatron_ipt.stages import SCORER

logger = logging.getLogger(__name__)

NATS, SCORE = "nats", "score"
"""What the numbers of a scorer are: log-likelihoods, or predictions of a learned scorer times counted tokens."""

_SUMMED = ("rows", "scored", "refused", "tokens", "masked", "windows", "input_tokens")
_SAME = ("model_fingerprint", "tokenizer_fingerprint", "seq_length", "mask", "dtype")


@dataclass(frozen=True)
class ScoreTask:
    """One shard under one scorer."""

    scorer: str
    shard: CorpusShard

    @property
    def name(self) -> str:
        return f"{self.scorer}/{self.shard.name}"

    def array(self, directory: Path) -> Path:
        """Its scores, as :data:`.rows.ROW`."""
        return directory / self.scorer / f"{self.shard.name}.npy"


@dataclass(frozen=True)
class ShardText:
    """What is scored in a shard, row by row.

    Attributes:
        made: the rows, without scores.
        ids: token ids.
        counted: which of them count, see :mod:`.windows`.
        names: for messages.
        sizes: for the progress bar, in the unit of :attr:`Scoring.unit`.
    """

    made: ShardRows
    ids: list[Ids]
    counted: list[Flags]
    names: Sequence[str]
    sizes: Sequence[int]


def tasks_of(scorers: Iterable[str], shards: Sequence[CorpusShard]) -> list[ScoreTask]:
    """Every shard under every scorer, scorer by scorer."""
    return [ScoreTask(scorer, shard) for scorer in scorers for shard in shards]


def gpus_of_largest(scorers: Iterable[ScorerConfig]) -> int:
    """GPUs that one process needs by default: those of its largest scorer."""
    # A learned scorer runs as the engine transformers does.
    plain = (replace(each, engine="transformers") if each.engine == LEARNED else each for each in scorers)
    return max(map(gpus_of, plain), default=0)


def check_scorers(scorers: dict[str, ScorerConfig], section: str) -> None:
    """Finds errors before there is anything to score.

    Raises:
        RecipeError: the code of an engine cannot be used, or it does not score.
        InputError: there is no tokenizer where the recipe says.
    """
    for name, scorer in scorers.items():
        settings = settings_of(name, scorer, section)
        if scorer.engine == LEARNED and not scorer.generation.model:
            # The scorer of this recipe is not fitted yet.
            continue
        check_scores(settings)
        settings.open_tokenizer()


def chosen_tasks(
    scorers: Iterable[str], shards: Sequence[CorpusShard], shard: tuple[int, int] | None, unit: str | None, section: str
) -> list[ScoreTask]:
    """The tasks of one process.

    Args:
        shard: (i, N) for every N-th task from the i-th on, counting from 0.
        unit: name of the only scorer to use.

    Raises:
        RecipeError: i is not in [0, N), or there is no such scorer.
    """
    names = list(scorers)
    tasks = tasks_of(names, shards)
    if unit is not None:
        if unit not in names:
            known = f"the scorers are {', '.join(names)}.{did_you_mean(unit, names)}"
            raise RecipeError(f"--scorer: {unit!r} is not in {section}.scorers; {known}")
        tasks = [task for task in tasks if task.scorer == unit]
    return share_of(tasks, shard)


def summary_of(
    scorers: dict[str, ScorerConfig], tasks: Sequence[ScoreTask], directory: Path, identity: str
) -> dict[str, Any]:
    """Counts over all finished shards: by scorer what its scores depend on, its rows and its tokens.

    Args:
        identity: of what is scored.
    """
    markers = ShardMarkers(directory)
    found: dict[str, Any] = {}
    missing = 0
    for name, scorer in scorers.items():
        records = [markers.counts(task.name) for task in tasks if task.scorer == name]
        done = [record for record in records if record is not None]
        missing += len(records) - len(done)
        if not done:
            continue
        total = {field: sum(record[field] for record in done) for field in _SUMMED}
        found[name] = {
            "corpus_identity": identity,
            "model": scorer.generation.model or scorer.engine,
            "engine": scorer.engine,
            **{field: done[0][field] for field in _SAME},
            "measure": done[0].get("measure", NATS),
            **total,
            "seconds": math.fsum(record["seconds"] for record in done),
            "nats_per_token": math.fsum(record["nll"] for record in done) / max(total["tokens"], 1),
        }
    summary: dict[str, Any] = {
        "rows": max((scorer["rows"] for scorer in found.values()), default=0),
        "tokens": sum(scorer["tokens"] for scorer in found.values()),
        "unscored": sum(scorer["rows"] - scorer["scored"] for scorer in found.values()),
        "scorers": found,
    }
    return summary | ({"unfinished_shards": missing} if missing else {})


class Scoring(ABC):
    """The shards of one scorer in one process.

    Args:
        name: of the scorer.
        tasks: its unfinished shards.
        section: of the recipe.
    """

    unit = "characters"
    """Of the progress bar."""

    def __init__(
        self, name: str, scorer: ScorerConfig, context: StageContext, tasks: Sequence[ScoreTask], section: str
    ):
        self.name, self.scorer, self.context, self.tasks = name, scorer, context, tasks
        stage = context.inputs.get(SCORER)
        self.settings = settings_of(name, scorer, section, None if stage is None else stage / SCORER_FOLDER)
        self._tokens = 0

    @abstractmethod
    def prepare(self, engine: Engine) -> None:
        """Called once, with the engine not yet started."""

    @abstractmethod
    def total(self) -> int | None:
        """Size of all tasks together, in units of the progress bar; None if unknown."""

    @abstractmethod
    def read(self, task: ScoreTask, engine: Engine) -> ShardText:
        """What is to be scored."""

    def run(self) -> None:
        """Scores all tasks.

        Raises:
            RecipeError: a window is longer than the engine can score.
            InputError: a model or a tokenizer cannot be used.
            StageError: the engine failed or gave NaN, or another process works on one of the shards.
        """
        run_coroutine(self._work())

    async def _work(self) -> None:
        if self.scorer.engine == LEARNED and not self.settings.generation.model:
            raise RecipeError(
                f"{self.settings.key('generation.model')}: the recipe fits no scorer for this stage (section fitting), "
                "so name the folder of one"
            )
        engine = open_engine(self.settings)
        self.prepare(engine)
        self._identity = identity_of(self.settings, self.scorer)
        async with engine:
            self.seq_length = self._windows_of(engine)
            with Progress(f"scoring {self.name}", self.total(), self.unit) as bar:
                self._start = time.monotonic()
                for task in self.tasks:
                    advice = "Scores of finished shards are kept."
                    lock = self.context.directory / self.name / f".{task.shard.name}.lock"
                    with locked(lock, task.array(self.context.directory), remove=True, advice=advice):
                        if ShardMarkers(self.context.directory).counts(task.name) is None:
                            await self._score(task, engine, bar)

    def _windows_of(self, engine: Engine) -> int:
        longest = engine.longest_score - 1
        wanted = self.scorer.seq_length
        if wanted is not None and wanted > longest:
            key = self.settings.key
            raise RecipeError(
                f"{key('seq_length')}: {wanted} inputs and the token after them do not fit into the {longest + 1} "
                f"tokens that the engine can score; set it to {longest} or less, or raise "
                f"{key('generation.context_length')}"
            )
        return wanted or longest

    async def _score(self, task: ScoreTask, engine: Engine, bar: Progress) -> None:
        start = time.monotonic()
        text = self.read(task, engine)
        rows = text.made.rows
        waiting = by_length(
            [
                window
                for row, (ids, counted) in enumerate(zip(text.ids, text.counted))
                for window in windows(row, ids, counted, self.seq_length)
            ]
        )
        parts: list[list[Score]] = [[] for _ in rows]
        lengths = [max(len(ids) - 1, 1) for ids in text.ids]

        async def ask(window: Window) -> None:
            try:
                score = await engine.score(window.request())
            except RequestRefused as refused:
                logger.debug("scoring %s: row %d of %s: %s", self.name, window.row, task.shard.path, refused)
                rows["tokens"][window.row] = REFUSED
                return
            if math.isnan(score.log_likelihood):
                raise StageError(
                    f"{task.shard.path}: row {window.row} ({text.names[window.row]}): the scorer {self.name} gave NaN. "
                    "Its weights may be damaged or have diverged in training; if only some texts are affected, score "
                    "in fp32."
                )
            parts[window.row].append(score)
            self._tokens += len(window.ids) - 1
            # In units of the row, as far as its tokens say.
            done = text.sizes[window.row] * (len(window.ids) - 1) // lengths[window.row]
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            bar.advance(done, **{"tokens/s": f"{rate:,.0f}", "shard": task.shard.name})

        await in_order(ask, waiting, engine.score_window)
        for row, scores in enumerate(parts):
            if rows["tokens"][row] == REFUSED or not scores:
                continue
            rows["tokens"][row] = sum(score.tokens for score in scores)
            # Exact, so that the order in which windows were answered leaves no trace.
            rows["nll"][row] = -math.fsum(score.log_likelihood for score in scores)
        self._finish(task, text, len(waiting), time.monotonic() - start)

    def _finish(self, task: ScoreTask, text: ShardText, asked: int, seconds: float) -> None:
        rows = text.made.rows
        scored = rows["tokens"] > 0
        refused = int((rows["tokens"] == REFUSED).sum())
        limit = self.scorer.generation.max_refused_share
        if refused > 1 and refused > limit * len(rows):
            raise EngineError(
                f"scoring: the engine of {self.name} refused {refused:,} of {len(rows):,} texts of {task.shard.path}, "
                f"more than {self.settings.key('generation.max_refused_share')} = {limit:g}"
            )
        with atomic_open(task.array(self.context.directory)) as stream:
            save_rows(rows, stream)
        learned = self.scorer.engine == LEARNED
        own = self.settings.own
        masked = sum(len(ids) - 1 - int(counted.sum()) for ids, counted in zip(text.ids, text.counted) if len(ids))
        ShardMarkers(self.context.directory).finish(
            task.name,
            {
                "rows": len(rows),
                "scored": int(scored.sum()),
                "refused": refused,
                "tokens": int(rows["tokens"][scored].sum()),
                "masked": masked,
                "windows": asked,
                "input_tokens": sum(max(len(ids) - 1, 0) for ids in text.ids),
                "nll": math.fsum(rows["nll"][scored]),
                "ids": ids_digest(rows["id"]),
                "domains": text.made.domains,
                "sources": text.made.sources,
                "model_fingerprint": self._identity["model"],
                "tokenizer_fingerprint": self._identity["tokenizer"],
                "seq_length": self.seq_length,
                "mask": "eod inputs" if self.scorer.eod_mask else "none",
                "measure": SCORE if learned else NATS,
                "dtype": str(getattr(own, "dtype", None) or getattr(own, "precision", None) or "as the engine decides"),
                "seconds": seconds,
            },
        )
