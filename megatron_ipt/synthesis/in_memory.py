"""Pairs for documents that are in memory, by the code that the stage runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from megatron_ipt.config import as_dict
from megatron_ipt.corpus.documents import Document
from megatron_ipt.files import atomic_jsonl, shard_name
from megatron_ipt.manifest import StageContext, fingerprint_file, run_stage
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.stage import chains_in, fingerprints, run

_SHARD_DOCUMENTS = 1000


def chains_of(
    documents: Iterable[Document], config: SynthesisConfig, seed: int, directory: Path | None = None
) -> list[Chain]:
    """Chains of the texts of ``documents`` with their pairs, in order.

    Args:
        directory: where to keep the work, so that an interrupted call resumes; by default nothing is kept.

    Raises:
        StageError: the engine failed, or ``directory`` holds the work of other documents or settings.
    """
    with tempfile.TemporaryDirectory(prefix="megatron-ipt-pairs-") as temporary:
        folder = directory or Path(temporary)
        context = StageContext("synthesis", folder / "synthesis", seed, {DOCUMENTS: folder / "documents"})
        shards = _write(documents, folder / "documents" / "synthesis")
        if not shards:
            return []
        inputs = [*map(fingerprint_file, shards), *fingerprints(config)]
        run_stage(context, as_dict(config, only_output=True), inputs, lambda: run(config, context))
        return list(chains_in(context.directory))


def _write(documents: Iterable[Document], folder: Path) -> list[Path]:
    """The documents as shards of a corpus."""
    remaining = iter(documents)
    shards: list[Path] = []
    while batch := list(islice(remaining, _SHARD_DOCUMENTS)):
        shards.append(folder / shard_name(len(shards)))
        with atomic_jsonl(shards[-1]) as writer:
            for document in batch:
                writer.write(document.to_json())
    return shards
