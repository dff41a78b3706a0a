"""What the command of the stage does besides making pairs: ``--forecast`` and ``--tune``.

Both ask about texts of the corpus, drawn at random. Their answers cost what they cost, so they are in the ledger, but
they never become pairs: nothing here touches journals or shards.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.files import write_json
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.metering import MeteredEngine
from megatron_ipt.inference.run import run_coroutine
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.progress import duration
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.synthesis.speed.tune import tune as tune_engine
from megatron_ipt.synthesis.spending.forecast import LAST_SHARE, MOST_TEXTS, forecast as forecast_run
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, Ledger
from megatron_ipt.synthesis.spending.sample import Sample, sample_chains
from megatron_ipt.synthesis.spending.trial import Trial
from megatron_ipt.synthesis.stage import engine_settings, former, open_styles, tasks_of

logger = logging.getLogger(__name__)

_READ_BYTES = 1e9
"""Of compressed shards, for a sample."""
_MOST_CHAINS = 20_000
"""Kept of a sample."""
_TUNING_TEXTS = 3_000
MOST_SECONDS = 300.0
"""Of tuning, after which no further value is tried."""
_FIRST_SHARE_OF_WINDOW, _MOST_WINDOWS = 1 / 64, 4
"""First and largest value that is tried, as multiples of the engine's own window."""


def forecast(config: SynthesisConfig, context: StageContext) -> dict[str, Any]:
    """What the shards that are not finished yet will use and cost; see :func:`.spending.forecast.forecast`.

    Raises:
        RecipeError: the engine has no model.
        StageError: there is nothing to do, or the engine failed.
    """
    markers = ShardMarkers(context.directory)
    shards = [task.source for task in _tasks(config, context, "--forecast") if markers.counts(task.name) is None]

    async def work(trial: Trial, prompts: StyleMixture) -> dict[str, Any]:
        sample = _sample(config, context, shards, prompts, _MOST_CHAINS)
        most = max(MOST_TEXTS, LAST_SHARE * sample.total_texts)
        logger.info(
            "synthesis: asking about at most %s of %s texts, drawn from %s of %s shards",
            *(f"{round(number):,}" for number in (most, sample.total_texts, sample.shards_read, sample.shards)),
        )
        window = config.generation.window or trial.engine.window
        return await forecast_run(trial, sample, prompts, config.price, window)

    result = _with_engine(config, context, work)
    write_json(context.directory / "forecast.json", result)
    return result


def tune(config: SynthesisConfig, context: StageContext) -> dict[str, Any]:
    """The value of ``generation.window``, or whatever the engine's ``tuned`` is, with which the engine is fastest; see
    :func:`.speed.tune.tune`.

    Raises:
        RecipeError: the engine has no model.
        StageError: there are no texts, the engine failed, or it is too slow to be measured.
    """
    shards = [task.source for task in _tasks(config, context, "--tune")]
    config = copy.deepcopy(config)
    config.generation.window = None
    own = open_engine(engine_settings(config))
    first = max(2, round(own.load * _FIRST_SHARE_OF_WINDOW))
    most = own.load * _MOST_WINDOWS
    # Engines make room for as many requests as the recipe says.
    config.generation.window = own.set_load(most)

    async def work(trial: Trial, prompts: StyleMixture) -> dict[str, Any]:
        sample = _sample(config, context, shards, prompts, math.ceil(_TUNING_TEXTS / config.chain_length))
        logger.info(
            "synthesis: trying values of %s from %s to at most %s with texts of the corpus, for at most %s",
            own.tuned, first, most, duration(MOST_SECONDS),
        )  # fmt: skip
        return await tune_engine(trial, sample.chains, prompts, first, most, MOST_SECONDS)

    result = _with_engine(config, context, work)
    write_json(context.directory / "tune.json", result)
    return result


def _tasks(config: SynthesisConfig, context: StageContext, option: str) -> Any:
    if source_named(config.engine).kind != "model":
        raise RecipeError(f"{option}: synthesis.engine is {config.engine}, which asks no model")
    return tasks_of(config, context)


def _sample(
    config: SynthesisConfig, context: StageContext, shards: list[Path], prompts: StyleMixture, chains: int
) -> Sample:
    sample = sample_chains(shards, context.seed, chains, former(config, prompts), _READ_BYTES)
    if not sample.chains:
        raise StageError("synthesis: there are no texts left to ask about")
    return sample


def _with_engine(
    config: SynthesisConfig, context: StageContext, work: Callable[[Trial, StyleMixture], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    engine = open_engine(engine_settings(config))
    prompts = open_styles(config, engine.tokenizer, context.seed)

    async def inside(ledger: Ledger) -> dict[str, Any]:
        async with MeteredEngine(engine, ledger) as metered:
            return await work(Trial(config, context.seed, prompts, metered), prompts)

    with Ledger(context.directory / USAGE_FOLDER, config.price) as ledger:
        return run_coroutine(inside(ledger))
