"""Stage ``corpus``: from the user's files to sharded documents with id, split and domain, in two lanes.

``synthesis/`` holds the documents that get pairs, ``raw/`` those that stay as they are. Lane and split of a document
are functions of its id and the seed, so they survive reordering, resharding and growth of the corpus. Memory does not
grow with the corpus.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.config import CorpusConfig
from megatron_ipt.corpus.documents import NO_DOMAIN, Document, DomainCounts, split_of
from megatron_ipt.corpus.readers import custom_reader
from megatron_ipt.corpus.reading import DocumentReader, input_files, input_fingerprints, open_rejects
from megatron_ipt.errors import InputError
from megatron_ipt.files import JsonlWriter, atomic_jsonl, shard_name
from megatron_ipt.manifest import StageContext
from megatron_ipt.progress import Progress
from megatron_ipt.seeding import unit_interval

logger = logging.getLogger(__name__)

LANES = ("synthesis", "raw")


def check(config: CorpusConfig) -> None:
    """Raises what the first file would raise.

    Raises:
        RecipeError: ``corpus.reader`` cannot be used.
    """
    custom_reader(config.options())


def fingerprints(config: CorpusConfig) -> list[dict[str, Any]]:
    """Fingerprints of all input files and of a custom reader, for the manifest."""
    return input_fingerprints(config.inputs, config.options())


def run(config: CorpusConfig, context: StageContext) -> dict[str, Any]:
    """Reads every input and writes the lanes; returns the counts.

    Raises:
        InputError: an input is missing or damaged, too much of it is rejected, or nothing usable is left.
    """
    for lane in LANES:
        shutil.rmtree(context.directory / lane, ignore_errors=True)
    options = config.options()
    files = input_files(config.inputs, options)
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    domains = DomainCounts()
    with ExitStack() as stack:
        rejects = stack.enter_context(open_rejects(context.directory / "rejects.jsonl", options))
        writers = {lane: stack.enter_context(_LaneWriter(config, context, lane)) for lane in LANES}
        bar = stack.enter_context(Progress("corpus"))
        reader = DocumentReader(files, options, rejects)
        for document in reader:
            if not config.in_slice(document.id):
                counts["outside_slice"] += 1
                continue
            document.split = split_of(document.id, context.seed, config.valid_share, config.test_share)
            lane = "synthesis" if unit_interval(context.seed, "lane", document.id) < config.synthesis_share else "raw"
            writers[lane].write(document)
            counts["documents"] += 1
            counts["characters"] += len(document.text)
            counts[f"{lane}_documents"] += 1
            splits[document.split] += 1
            domains.add(document.domain, 1, len(document.text))
            bar.advance(1, file=f"{reader.place}/{len(files)}", rejected=rejects.count)
        if not counts["documents"] and counts["outside_slice"]:
            raise InputError(
                f"corpus.slice: {config.slice}: all {counts['outside_slice']:,} documents lie outside of it"
            )
        if not counts["documents"]:
            raise InputError(f"corpus.inputs: no document in {', '.join(config.inputs)}: every file is empty")
        _check_splits(config, splits)
    _log_domains(config, domains.to_json())
    return {
        **counts,
        "splits": dict(splits),
        **domains.summary(),
        "files": len(files),
        "empty_files": reader.empty_files,
        "rejected": dict(rejects.reasons),
    }


def _log_domains(config: CorpusConfig, domains: dict[str, dict[str, int]]) -> None:
    if domains.keys() - {NO_DOMAIN}:
        shown = (f"{name} {count['documents']:,} ({count['characters']:,})" for name, count in domains.items())
        logger.info("corpus: documents (characters) by domain: %s", ", ".join(shown))
        if NO_DOMAIN in domains:
            logger.warning("corpus: %s documents have no domain", f"{domains[NO_DOMAIN]['documents']:,}")
    elif config.domain_key or config.domains:
        logger.warning("corpus: no document has a domain under corpus.domain_key or in corpus.domains")


def _check_splits(config: CorpusConfig, splits: Counter[str]) -> None:
    """Chance may leave a split of a very small corpus empty."""
    if not splits["train"]:
        raise InputError(
            f"corpus: all {splits.total()} documents were held out and none is left to train on; set "
            "corpus.valid_share=0, use another seed, or divide the text into more documents"
        )
    if config.valid_share and not splits["valid"]:
        logger.warning(
            "corpus: none of %d documents was held out for validation; raise corpus.valid_share to have some",
            splits.total(),
        )


class _LaneWriter:
    """Writes documents into shards of ``config.shard_documents``, each complete under its name or absent."""

    def __init__(self, config: CorpusConfig, context: StageContext, lane: str):
        self._limit = config.shard_documents
        self._compression = context.compression
        self._directory: Path = context.directory / lane
        self._stack = ExitStack()
        self._writer: JsonlWriter | None = None
        self._shards = 0

    def __enter__(self) -> _LaneWriter:
        self._stack.__enter__()
        return self

    def write(self, document: Document) -> None:
        if self._writer is not None and self._writer.records >= self._limit:
            self._stack.close()
            self._writer = None
        if self._writer is None:
            path = self._directory / shard_name(self._shards, self._compression)
            self._writer = self._stack.enter_context(atomic_jsonl(path))
            self._shards += 1
        self._writer.write(document.to_json())

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)
