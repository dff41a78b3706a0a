"""Stage ``decontaminate``: pairs, texts and documents that hold a test question are left out of what later stages read.

Every shard of chains and documents is made again, without what holds a question of one of the test sets; a pair goes
alone, a text with its pairs, a chain when none of its texts is left. Validation and test splits are treated alike. The
test questions are read once and kept beside the output, so that shards can be made anywhere, ``i`` of ``N`` in every
process. Near-duplicates of questions are removed at the end, by one process.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.stage import LANES
from megatron_ipt.decontamination.config import SHORTEST, DecontaminateConfig
from megatron_ipt.decontamination.questions import questions_of, test_files
from megatron_ipt.decontamination.repeats import CLEANED, remove_repeats
from megatron_ipt.decontamination.shard import ShardTask, clean_shard
from megatron_ipt.decontamination.tally import NEAR_DUPLICATE, cautions, total_of
from megatron_ipt.extensions import own_file
from megatron_ipt.files import atomic_jsonl, list_shards, read_json, write_json
from megatron_ipt.manifest import ShardMarkers, StageContext, fingerprint_code, fingerprint_file
from megatron_ipt.parallel import map_shards, share_of
from megatron_ipt.progress import Progress
from megatron_ipt.stages import CHAINS, DOCUMENTS, Units
from megatron_ipt.synthesis.words import words_of

logger = logging.getLogger(__name__)

QUESTIONS, QUESTION_COUNTS = "test_questions.jsonl.zst", "test_questions.json"
_TASK_FILES = (".yaml", ".yml", ".json", ".jsonl", ".parquet", ".py")


def check(config: DecontaminateConfig) -> None:
    """Finds errors in the test sets before the run begins.

    Raises:
        InputError: one is missing, cannot be read, or holds no question.
        RecipeError: a task or what reads tasks does not exist.
        UserError: lm-evaluation-harness is needed and not installed.
    """
    for _ in questions_of(config):
        pass


def fingerprints(config: DecontaminateConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files of test sets and of tasks, and of the code of a custom reader."""
    files = [*test_files(config.against, "decontaminate.against"), *config.questions.values()]
    if config.tasks and config.include_path:
        folder = Path(config.include_path)
        files += [str(path) for path in sorted(folder.rglob("*")) if path.suffix in _TASK_FILES]
    code = fingerprint_code(own_file(config.tasks_reader)) if config.tasks_reader else []
    return [fingerprint_file(path) for path in dict.fromkeys(files)] + code


def run(config: DecontaminateConfig, context: StageContext, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Makes all shards, or those in share ``shard`` (i, N); returns the counts of all finished ones.

    Raises:
        InputError: a test set cannot be used.
    """
    everything = tasks_of(config, context)
    own = share_of(everything, shard)
    _keep_questions(config, context.directory)
    arguments = (context.directory / QUESTIONS, config.ngram, context.directory)
    dropped: Counter[str] = Counter()
    with Progress("decontaminate", len(own), "shards") as bar:
        for _, record in map_shards(clean_shard, own, arguments, config.workers):
            dropped.update(record["dropped"])
            bar.advance(1, removed=f"{dropped.total():,}")
    if shard is not None:
        return {"shards": len(own), "dropped": dict(dropped)}
    if config.near_duplicates is not None:
        chains = [task for task in everything if not task.lane]
        remove_repeats(chains, context.directory, config.near_duplicates, context.seed)
    summary = summary_of(config, context)
    _log(summary)
    return summary


def _keep_questions(config: DecontaminateConfig, directory: Path) -> None:
    """Writes the test questions, and how many there are, if they are not there. Every process writes the same."""
    if (directory / QUESTIONS).exists():
        return
    by_set: Counter[str] = Counter()
    short = without_words = 0
    with atomic_jsonl(directory / QUESTIONS) as writer:
        for question in questions_of(config):
            writer.write(question._asdict())
            by_set[question.test_set] += 1
            words = len(words_of(question.text))
            short += 0 < words < SHORTEST
            without_words += words == 0
        counts = {
            "test_questions": by_set.total() - without_words,
            "questions_by_test_set": dict(by_set),
            "short_test_questions": short,
            "test_questions_without_words": without_words,
        }
        # Before the questions get their name, which says that both are there.
        write_json(directory / QUESTION_COUNTS, counts)


def tasks_of(config: DecontaminateConfig, context: StageContext) -> list[ShardTask]:
    """Every shard of the stage, in order: chains, then the lanes of documents."""
    tasks = []
    if CHAINS in context.inputs:
        folder = f"{CLEANED}/" if config.near_duplicates is not None else ""
        tasks += [ShardTask(f"{folder}{path.name}", path) for path in list_shards(context.inputs[CHAINS])]
    if DOCUMENTS in context.inputs:
        for lane in LANES:
            shards = list_shards(context.inputs[DOCUMENTS] / lane)
            tasks += [ShardTask(f"{lane}/{path.name}", path, lane) for path in shards]
    return tasks


def units(config: DecontaminateConfig, context: StageContext) -> Units:
    """The shards of the stage."""
    return Units(tuple(task.name for task in tasks_of(config, context)))


def summary_of(config: DecontaminateConfig, context: StageContext) -> dict[str, Any]:
    """Counts of a stage whose shards are all finished."""
    markers = ShardMarkers(context.directory)
    tasks = tasks_of(config, context)
    total = total_of(record for task in tasks if (record := markers.counts(task.name)) is not None)
    if config.near_duplicates is not None:
        after: Counter[str] = Counter()
        for task in tasks:
            if not task.lane:
                after.update(markers.counts(Path(task.name).name) or {})
        total.dropped[NEAR_DUPLICATE] = after["near_duplicates"]
        total.counts["pairs"] = after["pairs"]
        total.counts["texts_with_pairs"] = after["texts_with_pairs"]
    summary = total.summary()
    # Pairs that are near-duplicates were compared, too.
    compared = summary["compared"] + total.dropped[NEAR_DUPLICATE]
    return summary | {"compared": compared} | read_json(context.directory / QUESTION_COUNTS)


def _log(summary: dict[str, Any]) -> None:
    if summary["test_questions"] and summary["short_test_questions"] == summary["test_questions"]:
        logger.warning(
            "decontaminate: every test question has fewer than %d words and is only found as a whole text; are these "
            "the questions (decontaminate.question_keys)?",
            SHORTEST,
        )
    if summary["test_questions_without_words"]:
        logger.warning(
            "decontaminate: %s test questions hold no letter or digit and are not compared with",
            f"{summary['test_questions_without_words']:,}",
        )
    for caution in cautions(summary):
        logger.warning("decontaminate: %s", caution)
