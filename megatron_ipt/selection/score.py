"""Stage ``scoring``: what each scorer thinks of every training document, shard by shard.

The unit of work is a shard of the corpus under one scorer. Its windows are sorted by length and handed to the engine in
that order; results go back to the row they came from. A finished shard is one array and a marker, so a rerun repeats at
most one shard, and shards may be scored anywhere, in any order.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import Document
from megatron_ipt.errors import InputError, RecipeError, StageError, did_you_mean
from megatron_ipt.files import atomic_open, read_json
from megatron_ipt.inference.engine import Engine, EngineError, RequestRefused
from megatron_ipt.inference.engines import load_engine, open_engine
from megatron_ipt.inference.run import in_order, run_coroutine
from megatron_ipt.inference.scoring import Score
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers, StageContext, fingerprint_stage, read_manifest
from megatron_ipt.parallel import share_of
from megatron_ipt.progress import Progress
from megatron_ipt.selection.config import LEARNED, ScorerConfig, ScoringConfig
from megatron_ipt.selection.fitting.learned import SCORER_FOLDER, TRUNK, check_framing
from megatron_ipt.selection.identity import identity_of, settings_of
from megatron_ipt.selection.rows import (
    REFUSED,
    CorpusShard,
    documents_of,
    hash_of,
    ids_digest,
    is_row,
    rows_of,
    save_rows,
    shards_of,
)
from megatron_ipt.selection.windows import Framing, Ids, Window, by_length, windows
from megatron_ipt.stages import DOCUMENTS, SCORER, Units

logger = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 512
"""Given to the tokenizer together."""
NATS, SCORE = "nats", "score"
"""What the numbers of a scorer are: log-likelihoods, or predictions of a learned scorer times counted tokens."""


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
    tasks = tasks_of(config, context)
    if unit is not None:
        if unit not in config.scorers:
            known = f"the scorers are {', '.join(config.scorers)}.{did_you_mean(unit, config.scorers)}"
            raise RecipeError(f"--scorer: {unit!r} is not in scoring.scorers; {known}")
        tasks = [task for task in tasks if task.scorer == unit]
    own = share_of(tasks, shard)
    context.directory.mkdir(parents=True, exist_ok=True)
    markers = ShardMarkers(context.directory)
    for name, scorer in config.scorers.items():
        mine = [task for task in own if task.scorer == name]
        left = [task for task in mine if markers.counts(task.name) is None]
        if left:
            run_coroutine(_Scoring(name, scorer, context, len(tasks), left).work())
    return summary_of(config, context)


def tasks_of(config: ScoringConfig, context: StageContext) -> list[ScoreTask]:
    """Every shard under every scorer, scorer by scorer."""
    shards = shards_of(context.inputs[DOCUMENTS])
    return [ScoreTask(scorer, shard) for scorer in config.scorers for shard in shards]


def units(config: ScoringConfig, context: StageContext) -> Units:
    """The shards of the stage."""
    return Units(tuple(task.name for task in tasks_of(config, context)))


def fitted_scorer(context: StageContext) -> Path | None:
    """Folder of the scorer that this recipe fits; None if it fits none."""
    stage = context.inputs.get(SCORER)
    return None if stage is None else stage / SCORER_FOLDER


def gpus_per_task(config: ScoringConfig) -> int:
    """GPUs that one process needs by default: those of its largest scorer."""
    return max((_gpus(scorer) for scorer in config.scorers.values()), default=0)


def _gpus(scorer: ScorerConfig) -> int:
    if scorer.engine == "megatron":
        return scorer.megatron.ranks()
    on_cpu = scorer.transformers.device == "cpu" and scorer.engine in ("transformers", LEARNED)
    if scorer.engine == "openai" or on_cpu:
        return 0
    return scorer.tensorrt_llm.tensor_parallel_size if scorer.engine == "tensorrt_llm" else 1


def check(config: ScoringConfig) -> None:
    """Finds errors before the corpus is made.

    Raises:
        RecipeError: the code of an engine cannot be used, or it does not score.
        InputError: there is no tokenizer where the recipe says.
    """
    for name, scorer in config.scorers.items():
        settings = settings_of(name, scorer)
        if scorer.engine == LEARNED and not scorer.generation.model:
            # The scorer of this recipe is not fitted yet.
            continue
        if not load_engine(settings.engine, settings.key("engine")).scores():
            raise RecipeError(f"{settings.key('engine')}: the engine {settings.engine} does not score")
        if settings.chats:
            raise RecipeError(
                f"{settings.key('openai.server')}: a server of chats does not score texts; use vllm or "
                "openai-compatible"
            )
        settings.open_tokenizer()


def summary_of(config: ScoringConfig, context: StageContext) -> dict[str, Any]:
    """Counts over all finished shards: by scorer what its scores depend on, its rows and its tokens."""
    markers = ShardMarkers(context.directory)
    corpus = fingerprint_stage(context.inputs[DOCUMENTS])["identity"]
    scorers: dict[str, Any] = {}
    missing = 0
    for name, scorer in config.scorers.items():
        records = [markers.counts(task.name) for task in tasks_of(config, context) if task.scorer == name]
        done = [record for record in records if record is not None]
        missing += len(records) - len(done)
        if not done:
            continue
        total = {field: sum(record[field] for record in done) for field in _SUMMED}
        scorers[name] = {
            "corpus_identity": corpus,
            "model": scorer.generation.model or scorer.engine,
            "engine": scorer.engine,
            **{field: done[0][field] for field in _SAME},
            "measure": done[0].get("measure", NATS),
            **total,
            "seconds": math.fsum(record["seconds"] for record in done),
            "nats_per_token": math.fsum(record["nll"] for record in done) / max(total["tokens"], 1),
        }
    summary: dict[str, Any] = {
        "rows": max((scorer["rows"] for scorer in scorers.values()), default=0),
        "tokens": sum(scorer["tokens"] for scorer in scorers.values()),
        "unscored": sum(scorer["rows"] - scorer["scored"] for scorer in scorers.values()),
        "scorers": scorers,
    }
    return summary | ({"unfinished_shards": missing} if missing else {})


_SUMMED = ("rows", "scored", "refused", "tokens", "masked", "windows", "input_tokens")
_SAME = ("model_fingerprint", "tokenizer_fingerprint", "seq_length", "mask", "dtype")


@dataclass
class _Scoring:
    """The shards of one scorer in one process."""

    name: str
    scorer: ScorerConfig
    context: StageContext
    all_tasks: int
    tasks: list[ScoreTask]
    _tokens: int = 0
    _vocab_size: int | None = None
    _forbidden: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    async def work(self) -> None:
        fitted = fitted_scorer(self.context)
        settings = settings_of(self.name, self.scorer, fitted)
        model = Path(settings.generation.model)
        if self.scorer.engine == LEARNED:
            if not settings.generation.model:
                raise RecipeError(
                    f"{settings.key('generation.model')}: the recipe fits no scorer (section fitting), so name the "
                    "folder of one"
                )
            check_framing(model, self.scorer.prepend_bos, self.scorer.append_eod, settings.prefix)
        engine = open_engine(settings)
        tokenizer = engine.tokenizer
        bos = tokenizer.bos_id if self.scorer.prepend_bos else None
        self._framing = Framing(bos, tokenizer.eos_id, self.scorer.append_eod, self.scorer.eod_mask)
        self._identity = identity_of(self.name, self.scorer, fitted)
        self._vocab_size = _vocabulary(model / TRUNK if self.scorer.engine == LEARNED else model)
        if self.scorer.trained_on:
            self._forbidden = _ids_in(Path(self.scorer.trained_on), settings.key("trained_on"))
        characters = _characters(self.context, len(self.tasks), self.all_tasks)
        async with engine:
            self._seq_length = self._windows_of(engine)
            with Progress(f"scoring {self.name}", characters, "characters") as bar:
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
            key = settings_of(self.name, self.scorer).key
            raise RecipeError(
                f"{key('seq_length')}: {wanted} inputs and the token after them do not fit into the {longest + 1} "
                f"tokens that the engine can score; set it to {longest} or less, or raise "
                f"{key('generation.context_length')}"
            )
        return wanted or longest

    async def _score(self, task: ScoreTask, engine: Engine, bar: Progress) -> None:
        start = time.monotonic()
        documents = [document for _, document in documents_of(task.shard.path) if is_row(document)]
        made = rows_of(documents)
        rows = made.rows
        self._refuse_known(task, documents, rows["id"])
        ids = self._encode(engine, documents, task)
        flags = [self._framing.counted(each) for each in ids]
        waiting = by_length(
            [
                window
                for row, (each, counted) in enumerate(zip(ids, flags))
                for window in windows(row, each, counted, self._seq_length)
            ]
        )
        parts: list[list[tuple[int, Score]]] = [[] for _ in documents]
        lengths = [max(len(each) - 1, 1) for each in ids]

        async def ask(window: Window) -> None:
            try:
                score = await engine.score(window.request())
            except RequestRefused as refused:
                logger.debug("scoring %s: row %d of %s: %s", self.name, window.row, task.shard.path, refused)
                rows["tokens"][window.row] = REFUSED
                return
            if math.isnan(score.log_likelihood):
                raise StageError(
                    f"{task.shard.path}: row {window.row} (id {documents[window.row].id}): the scorer {self.name} gave "
                    "NaN. Its weights may be damaged or have diverged in training; if only some texts are affected, "
                    "score in fp32."
                )
            parts[window.row].append((len(window.ids), score))
            self._tokens += len(window.ids) - 1
            # In characters of the document, as far as its tokens say.
            done = len(documents[window.row].text) * (len(window.ids) - 1) // lengths[window.row]
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            bar.advance(done, **{"tokens/s": f"{rate:,.0f}", "shard": task.shard.name})

        await in_order(ask, waiting, engine.score_window)
        for row, found in enumerate(parts):
            if rows["tokens"][row] == REFUSED or not found:
                continue
            rows["tokens"][row] = sum(score.tokens for _, score in found)
            # Exact, so that the order in which windows were answered leaves no trace.
            rows["nll"][row] = -math.fsum(score.log_likelihood for _, score in found)
        self._finish(task, made.domains, made.sources, rows, ids, flags, len(waiting), time.monotonic() - start)

    def _finish(
        self,
        task: ScoreTask,
        domains: list[str],
        sources: list[str],
        rows: Any,
        ids: list[Ids],
        flags: list[npt.NDArray[np.bool_]],
        asked: int,
        seconds: float,
    ) -> None:
        scored = rows["tokens"] > 0
        refused = int((rows["tokens"] == REFUSED).sum())
        limit = self.scorer.generation.max_refused_share
        if refused > 1 and refused > limit * len(rows):
            raise EngineError(
                f"scoring: the engine of {self.name} refused {refused:,} of {len(rows):,} documents of "
                f"{task.shard.path}, more than scoring.scorers.{self.name}.generation.max_refused_share = {limit:g}"
            )
        with atomic_open(task.array(self.context.directory)) as stream:
            save_rows(rows, stream)
        learned = self.scorer.engine == LEARNED
        own = self.scorer.transformers if learned else getattr(self.scorer, self.scorer.engine, None)
        ShardMarkers(self.context.directory).finish(
            task.name,
            {
                "rows": len(rows),
                "scored": int(scored.sum()),
                "refused": refused,
                "tokens": int(rows["tokens"][scored].sum()),
                "masked": sum(len(each) - 1 - int(counted.sum()) for each, counted in zip(ids, flags) if len(each)),
                "windows": asked,
                "input_tokens": sum(max(len(each) - 1, 0) for each in ids),
                "nll": math.fsum(rows["nll"][scored]),
                "ids": ids_digest(rows["id"]),
                "domains": domains,
                "sources": sources,
                "model_fingerprint": self._identity["model"],
                "tokenizer_fingerprint": self._identity["tokenizer"],
                "seq_length": self._seq_length,
                "mask": "eod inputs" if self.scorer.eod_mask else "none",
                "dtype": str(getattr(own, "dtype", None) or getattr(own, "precision", None) or "as the engine decides"),
                "measure": SCORE if learned else NATS,
                "seconds": seconds,
            },
        )

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


def _characters(context: StageContext, own: int, everything: int) -> int | None:
    """Of the training documents in a share of the shards, as the corpus was counted."""
    counts = (read_manifest(context.inputs[DOCUMENTS]) or {}).get("counts", {})
    documents, splits = counts.get("documents"), counts.get("splits", {})
    if not documents or "characters" not in counts:
        return None
    scorers_share = own / max(everything, 1)
    return max(1, round(counts["characters"] * splits.get("train", documents) / documents * scorers_share))


def _vocabulary(model: Path) -> int | None:
    """Vocabulary size of a Hugging Face folder; None of anything else."""
    path = model / "config.json"
    size = read_json(path).get("vocab_size") if path.is_file() else None
    return size if isinstance(size, int) else None


def _ids_in(folder: Path, key: str) -> npt.NDArray[np.uint64]:
    """Hashes of the ids of the training documents in a folder of the stage corpus, sorted.

    Raises:
        InputError: there is none.
    """
    ids = [
        hash_of(document.id)
        for shard in shards_of(folder)
        for _, document in documents_of(shard.path)
        if is_row(document)
    ]
    if not ids:
        raise InputError(f"{key}: {folder}: no training documents; name the folder of the stage corpus of a run")
    return np.sort(np.array(ids, np.uint64))
