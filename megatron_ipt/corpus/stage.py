"""Stage ``corpus``: from the user's files to sharded documents with id and split, in two lanes.

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
from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.inputs import InputFile, find_files
from megatron_ipt.corpus.readers import is_readable, own_reader, read_file, readable_suffixes
from megatron_ipt.errors import InputError
from megatron_ipt.extensions import own_file
from megatron_ipt.files import JsonlWriter, atomic_jsonl, shard_name
from megatron_ipt.manifest import StageContext, fingerprint_code, fingerprint_file
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.seeding import unit_interval

logger = logging.getLogger(__name__)

LANES = ("synthesis", "raw")


def input_files(config: CorpusConfig) -> list[InputFile]:
    """The files the stage will read.

    Raises:
        InputError: an input is missing or of an unknown format.
    """
    takes = (lambda path: True) if config.reader else is_readable
    files, passed_over = find_files(config.inputs, takes, readable_suffixes())
    if passed_over:
        logger.warning("corpus: %d files of other formats passed over, e.g. %s", len(passed_over), passed_over[0])
    return files


def check(config: CorpusConfig) -> None:
    """Raises what the first file would raise.

    Raises:
        RecipeError: ``corpus.reader`` cannot be imported.
    """
    own_reader(config)


def fingerprints(config: CorpusConfig) -> list[dict[str, Any]]:
    """Fingerprints of all input files and of a reader of the user's own, for the manifest."""
    files = [fingerprint_file(file.path) for file in input_files(config)]
    return files + (fingerprint_code(own_file(config.reader)) if config.reader else [])


def split_of(document_id: str, seed: int, valid_share: float, test_share: float) -> str:
    """``train``, ``valid`` or ``test`` for a document, by hash of its id."""
    draw = unit_interval(seed, "split", document_id)
    if draw < valid_share:
        return "valid"
    return "test" if draw < valid_share + test_share else "train"


def run(config: CorpusConfig, context: StageContext) -> dict[str, Any]:
    """Reads every input and writes the lanes; returns the counts.

    Raises:
        InputError: an input is missing or damaged, too much of it is rejected, or nothing usable is left.
    """
    for lane in LANES:
        shutil.rmtree(context.directory / lane, ignore_errors=True)
    files = input_files(config)
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    empty_files = []
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(context.directory / "rejects.jsonl", config.maximum_reject_share))
        writers = {lane: stack.enter_context(_LaneWriter(config, context, lane)) for lane in LANES}
        bar = stack.enter_context(Progress("corpus"))
        for index, file in enumerate(files, 1):
            before = counts["documents"] + rejects.count
            for record in read_file(file, config, rejects):
                if len(record.text) < config.minimum_characters or not record.text.strip():
                    rejects.add("too short", file.path, None, f"{record.id}: {len(record.text)} characters")
                    rejects.check(counts["documents"])
                    continue
                split = split_of(record.id, context.seed, config.valid_share, config.test_share)
                lane = "synthesis" if unit_interval(context.seed, "lane", record.id) < config.synthesis_share else "raw"
                writers[lane].write(Document(record.id, record.text, record.title, split))
                counts["documents"] += 1
                counts["characters"] += len(record.text)
                counts[f"{lane}_documents"] += 1
                splits[split] += 1
                rejects.check(counts["documents"])
                bar.advance(1, file=f"{index}/{len(files)}", rejected=rejects.count)
            if counts["documents"] + rejects.count == before:
                empty_files.append(file.path)
                logger.warning("corpus: %s holds no document", file.path)
        rejects.check(counts["documents"], final=True)
        if not counts["documents"]:
            raise InputError(f"corpus.inputs: no document in {', '.join(config.inputs)}: every file is empty")
        _check_splits(config, splits)
    return {
        **counts,
        "splits": dict(splits),
        "files": len(files),
        "empty_files": empty_files,
        "rejected": dict(rejects.reasons),
    }


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
