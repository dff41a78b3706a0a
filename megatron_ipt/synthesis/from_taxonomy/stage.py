"""Stage ``taxonomy``: instruction–response pairs from a taxonomy of knowledge, without a corpus (GLAN,
arXiv:2402.13064).

A discipline is the unit of work: it has a shard, a journal and a marker of its own, and depends on nothing but its
path, the settings and the seed. Disciplines may therefore be grown anywhere, in any order, and a taxonomy that has
become larger is continued: what is there stays as it is.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config import as_dict
from megatron_ipt.errors import RecipeError, StageError, did_you_mean
from megatron_ipt.extensions import own_file
from megatron_ipt.files import atomic_open, write_json
from megatron_ipt.inference.engines import gpus_of, load_engine, open_engine
from megatron_ipt.inference.metering import MeteredEngine
from megatron_ipt.inference.rendering import Wanted, template_file
from megatron_ipt.inference.run import run_coroutine
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import find_tokenizer
from megatron_ipt.manifest import (
    USAGE,
    ShardMarkers,
    StageContext,
    fingerprint_code,
    fingerprint_file,
)
from megatron_ipt.parallel import share_of
from megatron_ipt.stages import Units
from megatron_ipt.synthesis.from_taxonomy import counts as counting
from megatron_ipt.synthesis.from_taxonomy.asking import Asker, PromptMaker
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.journal import CallJournal
from megatron_ipt.synthesis.from_taxonomy.monitor import METRICS, Monitor, no_pairs
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import Prompts, read_prompts
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import (
    REFUSED_CALLS,
    DisciplineTask,
    file_of,
    read_taxonomy,
    same_name,
)
from megatron_ipt.synthesis.from_taxonomy.plan import expected_calls, plan, plan_text
from megatron_ipt.synthesis.from_taxonomy.runner import Runner
from megatron_ipt.synthesis.from_taxonomy.writing import TREE_FOLDER
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, Ledger, total_usage, usage_summary, usage_text
from megatron_ipt.synthesis.spending.price import PriceConfig

logger = logging.getLogger(__name__)

TREE = "tree.jsonl"
USAGE_OF_ANSWERS = f"{USAGE_FOLDER}-answers"
_KEY, _KEY_OF_ANSWERS = "taxonomy", "taxonomy.answers"


def run(
    config: TaxonomyConfig, context: StageContext, shard: tuple[int, int] | None = None, unit: str | None = None
) -> dict[str, Any]:
    """Grows every discipline of the taxonomy.

    Args:
        config: section ``taxonomy``.
        context: of the stage.
        shard: (i, N) grows only every N-th discipline from the i-th on, counting from 0; other processes grow the rest.
        unit: name or path of the only discipline to grow.

    Returns:
        The counts of all finished disciplines, with ``unfinished_disciplines`` while some are missing.

    Raises:
        RecipeError: i is not in [0, N), or there is no such discipline.
        StageError: the engine failed, refused too much, or another process grows one of the disciplines.
        NoPairsError: the model made no pair.
    """
    everything = tasks_of(config, context)
    own = _own(everything, shard, unit)
    context.directory.mkdir(parents=True, exist_ok=True)
    markers = ShardMarkers(context.directory)
    left = [task for task in own if markers.counts(task.name) is None]
    if left:
        share = f"-{shard[0]}-of-{shard[1]}" if shard else f"-{own[0].stem}" if unit is not None else ""
        _grow(config, context, left, f"{METRICS}{share}.jsonl")
    for task in own:
        task.tidy(context.directory)
    summary = summary_of(config, context)
    if summary[REFUSED_CALLS]:
        logger.warning(
            "taxonomy: the engine refused %s requests; what would have grown from them is missing. To ask again, rerun "
            "with --retry-refused.", f"{summary[REFUSED_CALLS]:,}",
        )  # fmt: skip
    unasked = sum(figures.get("unasked", 0) for figures in summary["calls"].values())
    if unasked:
        logger.warning(
            "taxonomy: %s prompts were longer than the context and were not asked; raise taxonomy.generation."
            "context_length, or lower max_new_tokens", f"{unasked:,}",
        )  # fmt: skip
    if shard is None and unit is None:
        if not summary["pairs"]:
            raise no_pairs(summary["lost"])
        _join_trees(context.directory, everything)
    return summary


def reopen_refused(
    config: TaxonomyConfig, context: StageContext, shard: tuple[int, int] | None = None, unit: str | None = None
) -> dict[str, Any]:
    """Makes finished disciplines in which the engine refused requests unfinished, so that :func:`run` asks again; for
    the arguments see there.

    Raises:
        RecipeError: i is not in [0, N).
        StageError: another process works on one of them, or a journal is missing.
    """
    markers = ShardMarkers(context.directory)
    identity = _identity(config, context)
    reopened = {REFUSED_CALLS: 0, "disciplines": 0}
    for task in _own(tasks_of(config, context), shard, unit):
        refused = task.refused(context.directory)
        if not refused:
            continue
        with task.locked(context.directory):
            path = task.journal_path(context.directory)
            if not path.exists():
                raise StageError(
                    f"{path}: is missing, so what was refused cannot be asked again alone. Use --overwrite to make "
                    "everything again."
                )
            CallJournal(path, identity(task)).close()
            markers.reopen(task.name)
        reopened[REFUSED_CALLS] += refused
        reopened["disciplines"] += 1
    return reopened


def show_plan(config: TaxonomyConfig, context: StageContext) -> dict[str, Any]:
    """What the whole taxonomy takes, and what is left of it; see :func:`.plan.plan`."""
    result = _plan(config, context, makers_of(config))
    if context.directory.is_dir():
        write_json(context.directory / "plan.json", result)
    return result


def _own(tasks: list[DisciplineTask], shard: tuple[int, int] | None, unit: str | None) -> list[DisciplineTask]:
    return [task_named(tasks, unit)] if unit is not None else share_of(tasks, shard)


def _plan(config: TaxonomyConfig, context: StageContext, makers: tuple[PromptMaker, PromptMaker]) -> dict[str, Any]:
    return plan(config, context.directory, tasks_of(config, context), makers, _spent(config, context))


def tasks_of(config: TaxonomyConfig, context: StageContext) -> list[DisciplineTask]:
    """Every discipline of the taxonomy, in order."""
    return [
        DisciplineTask(discipline.shard_name(context.compression), discipline)
        for discipline in read_taxonomy(file_of(config.file))
    ]


def units(config: TaxonomyConfig, context: StageContext) -> Units:
    """The shards of the stage, one per discipline."""
    return Units(tuple(task.name for task in tasks_of(config, context)))


def task_named(tasks: list[DisciplineTask], name: str) -> DisciplineTask:
    """The task of the discipline with this name or path.

    Raises:
        RecipeError: there is none.
    """
    for task in tasks:
        if same_name(name) in (same_name(task.discipline.name), same_name(task.discipline.path)):
            return task
    known = [task.discipline.name for task in tasks]
    raise RecipeError(f"--discipline: {name!r} is not in the taxonomy.{did_you_mean(name, known)}")


def gpus_per_task(config: TaxonomyConfig) -> int:
    """GPUs that one process needs by default: those of the models in it."""
    sections = [config, config.answers] if config.second_model else [config]
    return sum(map(gpus_of, sections))


def check(config: TaxonomyConfig) -> None:
    """Finds errors before the first request.

    Raises:
        RecipeError: taxonomy, prompts or the code of an engine are not usable.
        InputError: there is no tokenizer where the recipe says, or it has no usable chat template.
    """
    read_taxonomy(file_of(config.file))
    for settings in _settings(config):
        if not load_engine(settings.engine, settings.key("engine")).generates():
            raise RecipeError(f"{settings.key('engine')}: the engine {settings.engine} does not generate")
    makers_of(config)


def fingerprints(config: TaxonomyConfig) -> list[dict[str, Any]]:
    """Fingerprints of own prompts, of tokenizers with their chat templates, and of custom engines; and each discipline.

    A discipline that was added since makes a finished stage incomplete, not different.
    """
    files: list[Path] = _files(config)
    engines = [settings.engine for settings in _settings(config)]
    code = [entry for name in engines for entry in fingerprint_code(own_file(source_named(name).code))]
    disciplines = [
        {"path": f"{config.file}: {discipline.path}", "weight": discipline.weight, "adds": True}
        for discipline in read_taxonomy(file_of(config.file))
    ]
    return [*map(fingerprint_file, files), *code, *disciplines]


def makers_of(config: TaxonomyConfig) -> tuple[PromptMaker, PromptMaker]:
    """Makes prompts for outlines and questions, and for answers."""
    prompts = _prompts(config)
    first, last = _settings(config)[0], _settings(config)[-1]
    return (
        PromptMaker(first, config.generation, first.open_tokenizer(), prompts),
        PromptMaker(last, config.generation_of_answers(), last.open_tokenizer(), prompts),
    )


def summary_of(config: TaxonomyConfig, context: StageContext) -> dict[str, Any]:
    """Counts over all finished disciplines, and by discipline, with ``unfinished_disciplines`` if there are any."""
    markers = ShardMarkers(context.directory)
    records = {task.discipline: markers.counts(task.name) for task in tasks_of(config, context)}
    finished = {discipline: record for discipline, record in records.items() if record is not None}
    total = counting.added(finished.values())
    summary: dict[str, Any] = {
        **total,
        **counting.summary(total),
        "by_discipline": {discipline.path: _row(record) for discipline, record in finished.items()},
        "teacher": {"outlines and questions": _teacher(config), "answers": _teacher_of_answers(config)},
        "licence": config.licence or "not stated",
    }
    usage = {
        name: usage_summary(used, price)
        for name, (folder, price, _) in _ledgers(config).items()
        if (used := total_usage(context.directory / folder)) is not None
    }
    if usage:
        summary[USAGE] = usage
    missing = len(records) - len(finished)
    return summary | ({"unfinished_disciplines": missing} if missing else {})


def _row(record: dict[str, Any]) -> dict[str, int]:
    lost = sum(record["lost"].values())
    return {name: record[name] for name in ("subjects", "draws", "questions", "pairs")} | {"lost": lost}


def _grow(config: TaxonomyConfig, context: StageContext, tasks: list[DisciplineTask], metrics: str) -> None:
    makers = makers_of(config)
    result = _plan(config, context, makers)
    logger.info("taxonomy: %s", plan_text(result).splitlines()[0])
    engines = [open_engine(settings) for settings in _settings(config)]
    identity = _identity(config, context)
    with ExitStack() as stack:
        ledgers = [
            (stack.enter_context(Ledger(context.directory / folder, price, f"{key}.price")), price)
            for folder, price, key in _ledgers(config).values()
        ]
        metered = [MeteredEngine(engine, ledger) for engine, (ledger, _) in zip(engines, ledgers)]
        askers = (
            Asker(metered[0], makers[0], context.seed),
            Asker(metered[-1], makers[1], context.seed),
        )
        expected = expected_calls(result, [task.discipline for task in tasks])
        monitor = stack.enter_context(
            Monitor(
                context.directory / metrics,
                config.generation.metrics_seconds,
                expected,
                ledgers,
                config.give_up_after,
            )
        )
        run_coroutine(
            Runner(config, _prompts(config), context.seed, context.directory, askers, identity).run(tasks, monitor)
        )
        for ledger, price in ledgers:
            logger.info("taxonomy: used so far: %s", usage_text(ledger.total(), price))


def _join_trees(directory: Path, tasks: list[DisciplineTask]) -> None:
    """All trees in one file, in the order of the taxonomy."""
    with atomic_open(directory / TREE) as stream:
        for task in tasks:
            with open(directory / TREE_FOLDER / f"{task.stem}.jsonl", "rb") as part:
                shutil.copyfileobj(part, stream, 1 << 20)


def _settings(config: TaxonomyConfig) -> list[EngineSettings]:
    """Of the model, or of both."""
    first = EngineSettings.of(config, _KEY)
    return [first, EngineSettings.of(config.answers, _KEY_OF_ANSWERS)] if config.second_model else [first]


def _ledgers(config: TaxonomyConfig) -> dict[str, tuple[str, PriceConfig, str]]:
    """Folder, price and key of the ledger of each model, by what it makes."""
    if not config.second_model:
        return {"all": (USAGE_FOLDER, config.price, _KEY)}
    return {
        "outlines and questions": (USAGE_FOLDER, config.price, _KEY),
        "answers": (USAGE_OF_ANSWERS, config.answers.price, _KEY_OF_ANSWERS),
    }


def _spent(config: TaxonomyConfig, context: StageContext) -> float:
    """What everything that was ever asked has cost."""
    usages = [(total_usage(context.directory / folder), price) for folder, price, _ in _ledgers(config).values()]
    return sum(price.cost(usage) for usage, price in usages if usage is not None)


def _teacher(config: TaxonomyConfig) -> str:
    return f"{config.generation.model} ({config.engine})"


def _teacher_of_answers(config: TaxonomyConfig) -> str:
    answers = config.answers
    return f"{answers.generation.model} ({answers.engine})" if config.second_model else _teacher(config)


def _prompts(config: TaxonomyConfig) -> Prompts:
    return read_prompts(Path(config.prompts).expanduser() if config.prompts else None)


def _files(config: TaxonomyConfig) -> list[Path]:
    """What is read besides the taxonomy."""
    files = [Path(config.prompts).expanduser()] if config.prompts else []
    for settings in _settings(config):
        if settings.tokenizer:
            key = settings.key("generation.model")
            tokenizer = find_tokenizer(settings.tokenizer, settings.key("generation.tokenizer"))
            files.append(tokenizer)
            if not settings.chats:
                files.append(template_file(tokenizer, Wanted(key, "synthesis")))
    return list(dict.fromkeys(files))


def _identity(config: TaxonomyConfig, context: StageContext) -> Callable[[DisciplineTask], int]:
    """What journals are recognised by: a hash of the settings and files that affect the output, and the path."""
    settings = as_dict(config, only_output=True) | {"seed": context.seed, "file": ""}
    settings["files"] = [fingerprint_file(path)["xxh128"] for path in _files(config)]
    data = orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)

    def identity(task: DisciplineTask) -> int:
        return int.from_bytes(hashlib.blake2b(data + task.discipline.path.encode(), digest_size=8).digest(), "big")

    return identity
