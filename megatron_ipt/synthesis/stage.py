"""Stage ``synthesis``: documents to chains of texts with pairs, shard by shard.

A finished shard leaves a marker with its counts; a rerun resumes with the next. Shards depend on nothing but their own
documents and the seed, so they may run anywhere, in any order, ``i`` of ``N`` in every process. A lock per shard keeps
two processes from making the same one.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config import as_dict
from megatron_ipt.corpus.documents import Document
from megatron_ipt.errors import RecipeError
from megatron_ipt.extensions import own_file
from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl, shard_name
from megatron_ipt.inference.engines import gpus_of, load_engine, open_engine
from megatron_ipt.inference.metering import MeteredEngine
from megatron_ipt.inference.run import run_coroutine
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer, find_tokenizer
from megatron_ipt.inference.usage import Usage
from megatron_ipt.manifest import (
    USAGE,
    ShardMarkers,
    StageContext,
    fingerprint_code,
    fingerprint_file,
    read_manifest,
)
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.stages import DOCUMENTS, Units
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.health import Health, no_pairs, shortened
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture, StyleShare
from megatron_ipt.synthesis.from_text.prompted.shard import ShardTask, chains_of_shard
from megatron_ipt.synthesis.from_text.prompted.style import StyleSetup
from megatron_ipt.synthesis.from_text.prompted.styles import (
    described,
    load_style,
    recommended,
    shares_of,
    style_code,
    style_file,
)
from megatron_ipt.synthesis.pair_sources import load_source, source_named
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.shard_files import REJECTS_FOLDER
from megatron_ipt.synthesis.spending.forecast import text_before
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, Ledger, total_usage, usage_summary, usage_text
from megatron_ipt.synthesis.spending.outlook import Outlook
from megatron_ipt.synthesis.spending.sample import sample_chains
from megatron_ipt.synthesis.statistics import REFUSED_TEXTS, Statistics, total_of

logger = logging.getLogger(__name__)

SAMPLED_TEXTS, SAMPLED_BYTES = 400, 32e6
"""Of the forecast in the log: texts in the sample, and bytes of compressed shards to draw it from."""


def run(config: SynthesisConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Makes pairs for every document in the lane ``synthesis`` of the corpus.

    Args:
        config: section ``synthesis``.
        context: of the stage.
        shard: (i, N) makes only every N-th shard from the i-th on, counting from 0; other processes make the rest.

    Returns:
        The counts of all finished shards, with ``unfinished_shards`` while other processes are still working.

    Raises:
        RecipeError: i is not in [0, N).
        StageError: the engine failed, refused too many texts, or another process works on one of the shards.
        NoPairsError: a model made no pair for any text.
    """
    everything = tasks_of(config, context)
    own = share_of(everything, shard)
    context.directory.mkdir(parents=True, exist_ok=True)
    by_model = source_named(config.engine).kind == "model"
    samples: list[str] = []
    if by_model:
        samples = _generate(config, context, own, len(everything), shard)
    else:
        _convert(config, context, own)
    for task in own:
        task.tidy(context.directory)
    summary = summary_of(config, context)
    if summary.get(REFUSED_TEXTS):
        logger.warning(
            "synthesis: the engine refused %s of %s texts, which are kept without pairs; %s says why. To ask about "
            "them again, rerun with --retry-refused.",
            f"{summary[REFUSED_TEXTS]:,}", f"{summary['texts']:,}", context.directory / REJECTS_FOLDER,
        )  # fmt: skip
    if summary["texts"] and not summary["pairs"] and not summary.get("unfinished_shards"):
        if by_model:
            rejects = context.directory / REJECTS_FOLDER
            samples = samples or _samples_of_rejects(rejects)
            where = str(rejects) if summary["dropped"] else ""
            raise no_pairs(summary["texts"], summary["dropped"], samples, described(config.prompt), where)
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in summary["dropped"].items())
        why = f"dropped: {reasons}; see {context.directory / REJECTS_FOLDER}" if reasons else "the engine found none"
        logger.warning("synthesis: none of %s texts got a pair; %s", f"{summary['texts']:,}", why)
    return summary


def reopen_refused(
    config: SynthesisConfig, context: StageContext, shard: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Makes finished shards in which the engine refused texts unfinished, so that :func:`run` asks about these again.

    Args:
        config: section ``synthesis``.
        context: of the stage.
        shard: (i, N) considers only every N-th shard from the i-th on.

    Returns:
        ``{refused_texts, shards}``: how many texts in how many shards.

    Raises:
        RecipeError: i is not in [0, N).
        StageError: another process works on one of the shards, or a journal is missing.
    """
    tasks = [task for task in share_of(tasks_of(config, context), shard) if task.refused(context.directory)]
    identity = _identity_of_shards(config, context) if tasks else None
    reopened = [task.reopen(context.directory, identity(task)) for task in tasks] if identity else []
    return {REFUSED_TEXTS: sum(reopened), "shards": len(reopened)}


def tasks_of(config: SynthesisConfig, context: StageContext) -> list[ShardTask]:
    """Every shard of the stage, in order."""
    if source_named(config.engine).kind == "files":
        files = load_source(config.engine)(config, context.seed).files()
        return [ShardTask(shard_name(index, context.compression), path) for index, path in enumerate(files)]
    return [ShardTask(path.name, path) for path in list_shards(context.inputs[DOCUMENTS] / "synthesis")]


def units(config: SynthesisConfig, context: StageContext) -> Units:
    """The shards of the stage."""
    return Units(tuple(task.name for task in tasks_of(config, context)))


def gpus_per_task(config: SynthesisConfig) -> int:
    """GPUs that one process needs by default: none without a model in it, or with one on the CPU."""
    return gpus_of(config) if source_named(config.engine).kind == "model" else 0


def unfinished(config: SynthesisConfig, context: StageContext) -> list[str]:
    """Names of the unfinished shards; empty when the stage is complete."""
    markers = ShardMarkers(context.directory)
    return [task.name for task in tasks_of(config, context) if markers.counts(task.name) is None]


def summary_of(config: SynthesisConfig, context: StageContext) -> dict[str, Any]:
    """Counts over all finished shards, with ``unfinished_shards`` if there are any."""
    markers = ShardMarkers(context.directory)
    counts = [markers.counts(task.name) for task in tasks_of(config, context)]
    summary = total_of(count for count in counts if count is not None).summary()
    missing = sum(count is None for count in counts)
    usage = total_usage(context.directory / USAGE_FOLDER)
    if usage is not None and source_named(config.engine).kind == "model":
        summary[USAGE] = usage_summary(usage, config.price)
    return summary | ({"unfinished_shards": missing} if missing else {})


def check(config: SynthesisConfig) -> None:
    """Finds errors before the corpus is made.

    Raises:
        RecipeError: code of engine or prompt style cannot be imported or is of the wrong kind, a file of tasks is not
            valid, or a file to replay is missing.
        InputError: there is no tokenizer where the recipe says, or it lacks a usable chat template that is needed.
    """
    if source_named(config.engine).kind == "model":
        if not load_engine(config.engine, "synthesis.engine").generates():
            raise RecipeError(f"synthesis.engine: the engine {config.engine} does not generate")
        open_styles(config, engine_settings(config).open_tokenizer(), 0)
    else:
        load_source(config.engine)
        _other_files(config)


def fingerprints(config: SynthesisConfig) -> list[dict[str, Any]]:
    """Fingerprints of what is read besides the corpus: the tokenizer of the prompts, its chat template and a file of
    tasks if they are used, or the files to replay; and the code of a custom engine and prompt style."""
    files = [fingerprint_file(path) for path in _other_files(config)]
    source = source_named(config.engine)
    code = fingerprint_code(own_file(source.code))
    if source.kind == "model":
        for style in shares_of(config.prompt):
            code += fingerprint_code(own_file(style_code(style)))
    return files + code


def _other_files(config: SynthesisConfig) -> list[Path]:
    kind = source_named(config.engine).kind
    if kind == "files":
        return list(load_source(config.engine)(config, 0).files())
    if kind == "model":
        tokenizer = _tokenizer_file(config)
        return [*([tokenizer] if tokenizer else []), *_prompt_files(config)]
    return []


def _tokenizer_file(config: SynthesisConfig) -> Path | None:
    """The file of the tokenizer; None where tokens are estimated."""
    settings = engine_settings(config)
    return find_tokenizer(settings.tokenizer, settings.key("generation.tokenizer")) if settings.tokenizer else None


def _prompt_files(config: SynthesisConfig) -> list[Path]:
    tokenizer = None if engine_settings(config).chats else _tokenizer_file(config)
    files = [file for name in shares_of(config.prompt) for file in load_style(name).files(tokenizer, style_file(name))]
    return list(dict.fromkeys(files))


def open_styles(config: SynthesisConfig, tokenizer: PromptTokenizer, seed: int) -> StyleMixture:
    """The prompt styles that the section names, each with its share.

    Raises:
        RecipeError: one cannot be imported, its file is not valid, or the context leaves no room for a text.
        InputError: the model lacks something that one needs, such as a chat template.
    """
    chats = engine_settings(config).chats
    shares = []
    for name, share in shares_of(config.prompt).items():
        generation = replace(config.generation)
        generation.fill_in(recommended(name))
        setup = StyleSetup(tokenizer, generation, seed, style_file(name), chats=chats)
        style = load_style(name).make(setup)
        shares.append(StyleShare(name, style, share, Sampling.of(generation)))
    return StyleMixture(shares, seed)


def engine_settings(config: SynthesisConfig) -> EngineSettings:
    """Settings of the engine that the section names."""
    return EngineSettings.of(config, "synthesis")


def _convert(config: SynthesisConfig, context: StageContext, tasks: list[ShardTask]) -> None:
    texts = pairs = 0
    arguments = (config, context.seed, context.directory)
    with Progress("synthesis", len(tasks), "shards") as bar:
        for _, record in map_shards(convert_shard, tasks, arguments, config.workers):
            texts += record["counts"].get("texts", 0)
            pairs += record["counts"].get("pairs", 0)
            bar.advance(1, texts=f"{texts:,}", pairs=f"{pairs:,}")


def convert_shard(task: ShardTask, config: SynthesisConfig, seed: int, directory: Path) -> dict[str, Any]:
    """Makes one shard without a model, unless it is finished; returns its counts."""
    markers = ShardMarkers(directory)
    done = markers.counts(task.name)
    if done is not None:
        return done
    with task.locked(directory):
        done = markers.counts(task.name)
        if done is not None:
            return done
        task.remove_leftovers(directory)
        statistics = Statistics()
        source = load_source(config.engine)(config, seed)
        with Rejects(task.rejects_path(directory)) as rejects, atomic_jsonl(directory / task.name) as writer:
            if source_named(config.engine).kind == "files":
                chains = source.read(task.source, rejects)
            else:
                documents = (Document.from_json(record) for record in read_jsonl(task.source))
                chains = source.chains(documents, rejects, statistics)
            for chain in chains:
                writer.write(chain.to_json())
                statistics.add_chain(chain)
        statistics.dropped.update(rejects.reasons)
        markers.finish(task.name, statistics.to_json())
    return statistics.to_json()


def _generate(
    config: SynthesisConfig,
    context: StageContext,
    tasks: list[ShardTask],
    all_tasks: int,
    shard: tuple[int, int] | None,
) -> list[str]:
    """Makes shards with a language model; returns samples of its answers without pairs."""
    from megatron_ipt.synthesis.from_text.prompted.monitor import Monitor
    from megatron_ipt.synthesis.from_text.prompted.runner import Runner, check_refused, too_many_refused

    markers = ShardMarkers(context.directory)
    samples: list[str] = []
    finished = _finished(tasks, markers)
    own = total_of(finished.values())
    useless = own.counts[REFUSED_TEXTS] and not own.counts["pairs"]
    if useless or too_many_refused(own.counts, config.generation.max_refused_share):
        # An earlier run failed because of them.
        found = reopen_refused(config, context, shard)
        logger.info("synthesis: asking again about %d texts that the engine refused", found[REFUSED_TEXTS])
        finished = _finished(tasks, markers)
    if len(finished) < len(tasks):
        generation = config.generation
        engine = open_engine(engine_settings(config))
        prompts = open_styles(config, engine.tokenizer, context.seed)
        identity = _identity_of_shards(config, context)
        name = "metrics.jsonl" if shard is None else f"metrics-{shard[0]}-of-{shard[1]}.jsonl"
        documents = _documents(context)
        with Ledger(context.directory / USAGE_FOLDER, config.price) as ledger:
            engine = MeteredEngine(engine, ledger)
            left = [task.source for task in tasks if task.name not in finished]
            _log_forecast(config, context.seed, left, prompts, ledger.total())
            monitor = Monitor(
                engine,
                context.directory / name,
                generation.metrics_seconds,
                documents * len(tasks) // all_tasks if documents is not None else None,
                sum(record["counts"].get("documents", 0) for record in finished.values()),
                Health(config.give_up_after, any(record["counts"].get("pairs") for record in finished.values())),
                Outlook(ledger, config.price),
            )
            with monitor:
                runner = Runner(config, context.seed, context.directory, prompts, engine, identity)
                run_coroutine(runner.run(tasks, monitor))
            logger.info("synthesis: used so far: %s", usage_text(ledger.total(), config.price))
        samples = monitor.health.samples
        finished = _finished(tasks, markers)
    check_refused(total_of(finished.values()).counts, config.generation.max_refused_share)
    return samples


def _finished(tasks: list[ShardTask], markers: ShardMarkers) -> dict[str, dict[str, Any]]:
    """What the markers of the finished shards hold, by shard."""
    return {task.name: record for task in tasks if (record := markers.counts(task.name)) is not None}


def _identity_of_shards(config: SynthesisConfig, context: StageContext) -> Callable[[ShardTask], int]:
    """What journals are recognised by: a hash of the settings and files that affect the output, and of the input."""
    tokenizer = _tokenizer_file(config)
    settings = as_dict(config, only_output=True) | {
        "seed": context.seed,
        "tokenizer": fingerprint_file(tokenizer) if tokenizer else None,
    }
    if files := _prompt_files(config):
        settings["prompt_files"] = [fingerprint_file(path)["xxh128"] for path in files]
    settings_bytes = orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)

    def identity(task: ShardTask) -> int:
        source = orjson.dumps(fingerprint_file(task.source).get("xxh128"))
        return int.from_bytes(hashlib.blake2b(settings_bytes + source, digest_size=8).digest(), "big")

    return identity


def former(config: SynthesisConfig, prompts: StyleMixture) -> Callable[[Path], Iterator[Chain]]:
    """Gives the chains that a run makes of the documents in a file."""
    return lambda path: chains_of_shard(path, prompts, config.chain_length, config.passage_characters)


def _log_forecast(config: SynthesisConfig, seed: int, shards: list[Path], prompts: StyleMixture, before: Usage) -> None:
    """Says what will be used before the first request; ``before`` is what was used so far."""
    wanted = SAMPLED_TEXTS // config.chain_length + 1
    sample = sample_chains(shards, seed, wanted, former(config, prompts), SAMPLED_BYTES)
    if sample.chains:
        most_tokens = config.generation.max_new_tokens
        logger.info("synthesis: %s", text_before(sample, prompts, config.price, before, most_tokens))


def _samples_of_rejects(folder: Path) -> list[str]:
    """Samples of what was dropped, for a rerun of a finished stage: it asks for no answers."""
    records = (record for path in sorted(folder.glob("*.jsonl")) for record in read_jsonl(path))
    samples = (shortened(record["sample"]) for record in itertools.islice(records, 100) if record.get("sample"))
    return list(dict.fromkeys(samples))[:3]


def _documents(context: StageContext) -> int | None:
    """Documents in lane ``synthesis``, as the corpus stage counted them."""
    manifest = read_manifest(context.inputs[DOCUMENTS]) or {}
    count = manifest.get("counts", {}).get("synthesis_documents")
    return count if isinstance(count, int) else None


def chains_in(directory: Path) -> Iterator[Chain]:
    """All chains of a finished stage, in order."""
    for shard in list_shards(directory):
        for record in read_jsonl(shard):
            yield Chain.from_json(record)
