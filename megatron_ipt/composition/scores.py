"""Steps ``alone`` and ``scores``: the losses from which the gain of each context follows.

A paragraph is scored once by itself, however many contexts it stands in; then every context is scored once. Texts are
handed to the engine longest first and results go back to their place, so a shard has the same bytes however it was
interrupted. Both steps take the tokenizer of the filter's model; paragraphs are cut to as many of its tokens.
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

from megatron_ipt.composition.config import CompositionConfig
from megatron_ipt.composition.contexts import in_order as placed
from megatron_ipt.composition.gain import alone_request, gain, joined_request
from megatron_ipt.composition.neighbours import read_contexts
from megatron_ipt.composition.search import NONE
from megatron_ipt.composition.store import ALONE, SCORES, Numbers, Paragraphs, array_path, load_array, save_array, unit
from megatron_ipt.composition.vectors import line_break
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.inference.engine import Engine, RequestRefused
from megatron_ipt.inference.engines import check_scores, open_engine
from megatron_ipt.inference.run import in_order, run_coroutine
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.locks import locked
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.progress import Progress
from megatron_ipt.selection.rows import CorpusShard

logger = logging.getLogger(__name__)

ALONE_ROW = np.dtype([("paragraph", "<i8"), ("nll", "<f8"), ("tokens", "<i4")])
SCORE_ROW = np.dtype([("kind", "<i4"), ("query", "<i8"), ("gain", "<f8"), ("tokens", "<i4")])
"""``gain`` is s in nats per token, NaN where the engine refused a text."""
KEY = "composition.filter"
_TEXTS_AT_ONCE = 8192
"""Sorted by length among each other, and in memory as ids."""


def settings_of(config: CompositionConfig) -> EngineSettings:
    """Settings of the filter's engine."""
    return EngineSettings.of(config.filter, KEY, scoring=True)


def used_in(directory: Path, names: list[str]) -> Numbers:
    """Numbers of the paragraphs that stand in any context, ascending."""
    parts = [np.zeros(0, np.int64)]
    for name in names:
        rows = read_contexts(directory, name, None)
        parts += [rows["query"], rows["neighbours"].ravel()]
    found = np.unique(np.concatenate(parts))
    return found[found != NONE]


@dataclass
class ScoreStep:
    """Both steps, for the shards of one process.

    Args:
        config: section ``composition``.
        directory: of the stage.
        paragraphs: of all shards.
        seed: of the recipe.
        names: of all shards.
    """

    config: CompositionConfig
    directory: Path
    paragraphs: Paragraphs
    seed: int
    names: list[str]
    _break: list[int] = field(default_factory=list)
    _bar: Progress = field(init=False)

    def work(self, step: str, shards: list[CorpusShard]) -> None:
        """Makes what is missing of a step.

        Raises:
            InputError: the model cannot be used.
            RecipeError: a context is longer than the engine takes.
            StageError: the engine failed or gave NaN, or the step before is not finished.
        """
        markers = ShardMarkers(self.directory)
        left = [shard for shard in shards if markers.counts(unit(step, shard)) is None]
        if left:
            run_coroutine(self._work(step, left))

    async def _work(self, step: str, shards: list[CorpusShard]) -> None:
        markers = ShardMarkers(self.directory)
        losses = self._read_alone() if step == SCORES else {}
        engine = open_engine(settings_of(self.config))
        self._break = line_break(engine.tokenizer)
        async with engine:
            if engine.longest_score <= self.config.seq_length:
                raise RecipeError(
                    f"{KEY}.generation.context_length: contexts of composition.seq_length={self.config.seq_length} and "
                    f"a BOS token do not fit into the {engine.longest_score} tokens that the engine can score; raise "
                    "it, or lower composition.seq_length"
                )
            with Progress(step, self._texts(step, shards), "texts") as self._bar:
                for shard in shards:
                    lock = self.directory / step / f".{shard.name}.lock"
                    path = array_path(self.directory, step, shard.name)
                    with locked(lock, path, remove=True, advice="Finished shards are kept."):
                        if markers.counts(unit(step, shard)) is None:
                            start = time.monotonic()
                            if step == ALONE:
                                rows = await self._alone(engine, shard)
                            else:
                                rows = await self._joined(engine, shard, losses)
                            self._check_refused(rows, shard)
                            save_array(path, rows)
                            markers.finish(unit(step, shard), self._counts(rows, time.monotonic() - start))

    def _counts(self, rows: Any, seconds: float) -> dict[str, Any]:
        return {
            "rows": len(rows),
            "tokens": int(rows["tokens"].sum()),
            "paragraphs": self.paragraphs.identity,
            "seconds": seconds,
        }

    def _texts(self, step: str, shards: list[CorpusShard]) -> int:
        """How many texts a step scores in these shards."""
        if step == SCORES:
            return sum(len(read_contexts(self.directory, shard.name, None)) for shard in shards)
        used = used_in(self.directory, self.names)
        own = {shard.name for shard in shards}
        spans = [each.numbers for each in self.paragraphs.shards if each.name in own]
        return sum(int(((used >= span.start) & (used < span.stop)).sum()) for span in spans)

    async def _alone(self, engine: Engine, shard: CorpusShard) -> Any:
        numbers = next(each for each in self.paragraphs.shards if each.name == shard.name).numbers
        used = used_in(self.directory, self.names)
        own = used[(used >= numbers.start) & (used < numbers.stop)]
        parts = [np.zeros(0, ALONE_ROW)]
        for first in range(0, len(own), _TEXTS_AT_ONCE):
            chunk = own[first : first + _TEXTS_AT_ONCE]
            ids = self._encode(engine, chunk.tolist())
            requests = [alone_request(ids[number], self._bos(engine)) for number in chunk.tolist()]
            found = await self._ask(engine, requests, [self.paragraphs.name(number) for number in chunk.tolist()])
            rows = np.zeros(len(chunk), ALONE_ROW)
            rows["paragraph"] = chunk
            rows["nll"] = [nll for nll, _ in found]
            rows["tokens"] = [tokens for _, tokens in found]
            parts.append(rows)
        return np.concatenate(parts)

    async def _joined(self, engine: Engine, shard: CorpusShard, losses: dict[int, float]) -> Any:
        contexts = read_contexts(self.directory, shard.name, None)
        parts = [np.zeros(0, SCORE_ROW)]
        for first in range(0, len(contexts), _TEXTS_AT_ONCE):
            parts.append(await self._contexts(engine, contexts[first : first + _TEXTS_AT_ONCE], losses))
        return np.concatenate(parts)

    async def _contexts(self, engine: Engine, contexts: npt.NDArray[np.void], losses: dict[int, float]) -> Any:
        wanted = np.unique(np.concatenate([contexts["query"], contexts["neighbours"].ravel()]))
        ids = self._encode(engine, wanted[wanted != NONE].tolist())
        members, requests, names = [], [], []
        for context in contexts:
            query = int(context["query"])
            name = self.paragraphs.name(query)
            nearest = context["neighbours"][context["neighbours"] != NONE].tolist()
            inside = placed(query, nearest, self.config.order, self.seed, name)
            # Another tokenizer than the model's may need more room: what is farthest from the query goes first.
            while len(inside) > 1 and sum(len(ids[number]) for number in inside) >= self.config.seq_length:
                inside = inside[1:]
            members.append(inside)
            requests.append(joined_request([ids[number] for number in inside], self._bos(engine)))
            names.append(name)
        found = await self._ask(engine, requests, names)
        rows = np.zeros(len(contexts), SCORE_ROW)
        rows["kind"], rows["query"] = contexts["kind"], contexts["query"]
        for row, inside, (nll, tokens) in zip(rows, members, found):
            row["gain"] = gain([losses[number] for number in inside], nll, tokens)
            row["tokens"] = tokens if math.isfinite(row["gain"]) else 0
        return rows

    def _read_alone(self) -> dict[int, float]:
        """Summed loss of every paragraph by itself; NaN where it was refused.

        Raises:
            StageError: some are missing.
        """
        markers = ShardMarkers(self.directory)
        missing = [name for name in self.names if markers.counts(f"{ALONE}/{name}") is None]
        if missing:
            raise StageError(
                f"{self.directory}: the paragraphs of {len(missing)} of {len(self.names)} shards are not scored by "
                f"themselves yet ({missing[0]}); run `megatron-ipt compose` with --until alone first"
            )
        losses: dict[int, float] = {}
        for name in self.names:
            rows = load_array(array_path(self.directory, ALONE, name), f"Remove {self.directory / ALONE}.")
            if self.paragraphs.marker(ALONE, name)["paragraphs"] != self.paragraphs.identity:
                raise StageError(
                    f"{array_path(self.directory, ALONE, name)}: of another corpus; remove {self.directory / ALONE}"
                )
            losses |= dict(zip(rows["paragraph"].tolist(), rows["nll"].tolist()))
        return losses

    def _check_refused(self, rows: Any, shard: CorpusShard) -> None:
        """Raises StageError if the engine refused too many texts."""
        refused = int(np.isnan(rows["nll" if "nll" in rows.dtype.names else "gain"]).sum())
        limit = self.config.filter.generation.max_refused_share
        if refused > 1 and refused > limit * len(rows):
            raise StageError(
                f"composition: the engine of the filter refused {refused:,} of {len(rows):,} texts of {shard.name}, "
                f"more than {KEY}.generation.max_refused_share = {limit:g}"
            )

    def _bos(self, engine: Engine) -> int | None:
        return engine.tokenizer.bos_id if self.config.filter.prepend_bos else None

    def _encode(self, engine: Engine, numbers: list[int]) -> dict[int, list[int]]:
        """Ids of paragraphs as they stand in a context: cut, with a line break."""
        room = self.config.paragraph_tokens - len(self._break)
        encoded = engine.tokenizer.encode([self.paragraphs.text(number) for number in numbers]) if numbers else []
        return {number: ids[:room] + self._break for number, ids in zip(numbers, encoded)}

    async def _ask(self, engine: Engine, requests: list[ScoreRequest], names: list[str]) -> list[tuple[float, int]]:
        """(summed loss, counted tokens) of each text; (NaN, 0) where it was refused."""
        order = sorted(range(len(requests)), key=lambda place: -len(requests[place].ids))
        found = [(math.nan if request.counted else 0.0, 0) for request in requests]

        async def ask(place: int) -> None:
            self._bar.advance(1)
            if not requests[place].counted:
                return
            try:
                score = await engine.score(requests[place])
            except RequestRefused as refused:
                logger.debug("%s: %s: %s", KEY, names[place], refused)
                return
            if math.isnan(score.log_likelihood):
                raise StageError(
                    f"composition: the filter {self.config.filter.generation.model} gave NaN for {names[place]}. Its "
                    "weights may be damaged; if only some texts are affected, score in fp32."
                )
            found[place] = (-score.log_likelihood, score.tokens)

        await in_order(ask, order, engine.score_window)
        return found


def check_filter(config: CompositionConfig) -> None:
    """Finds errors of the filter before the corpus is made.

    Raises:
        RecipeError: its engine cannot be used, or does not score.
        InputError: there is no tokenizer where the recipe says.
    """
    settings = settings_of(config)
    check_scores(settings)
    line_break(settings.open_tokenizer())
