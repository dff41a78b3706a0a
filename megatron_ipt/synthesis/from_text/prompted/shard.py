"""One shard: planned, journalled, and finally written as one file in the order of its documents.

The final steps are ordered so that a crash between any two of them is harmless: chains and rejects (each appears
completely or not at all), then the marker, and only then is the journal removed. Until the marker exists, a rerun
repeats the final steps from the journal, with the same bytes.

The journal of a shard in which the engine refused texts is kept beside the finished shard. To ask about them again, the
marker is removed; a job drops the chains with refused texts from the journal that it opens, makes them anew and writes
the shard again, with the same bytes as if nothing had been refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import xxhash

from megatron_ipt.corpus.documents import Document
from megatron_ipt.errors import StageError
from megatron_ipt.files import atomic_jsonl, read_jsonl
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.chaining import chain_up
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.synthesizer import Outcome, PlannedChain
from megatron_ipt.synthesis.journal import Journal
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.shard_files import ShardFiles
from megatron_ipt.synthesis.statistics import REFUSED_TEXTS, REPEATED_TEXTS, Statistics

_REFUSED = f'"{REFUSED_TEXTS}":'.encode()
"""In the payload of a chain with refused texts; a text that quotes it has a backslash inside."""
_BATCH_TEXTS = 64


@dataclass(frozen=True)
class ShardTask(ShardFiles):
    """A shard to make: from the file ``source`` to a file called ``name``."""

    source: Path

    def refused(self, directory: Path) -> int:
        """Number of texts that the engine refused in the finished shard; 0 while it is unfinished."""
        marker = ShardMarkers(directory).counts(self.name) or {}
        return int(marker.get("counts", {}).get(REFUSED_TEXTS, 0))

    def reopen(self, directory: Path, identity: int) -> int:
        """Makes the finished shard unfinished if the engine refused texts in it; returns their number.

        Raises:
            StageError: another process is working on it, or its journal is missing or from other settings.
        """
        if not self.refused(directory):
            return 0
        with self.locked(directory):
            path = self.journal_path(directory)
            if not path.exists():
                raise StageError(
                    f"{path}: is missing, so the refused texts of the shard cannot be asked about again alone. Use "
                    "--overwrite to make everything again."
                )
            Journal(path, identity).close()
            refused = self.refused(directory)
            ShardMarkers(directory).reopen(self.name)
        return refused


class ShardJob:
    """A shard in progress; holds its lock and journal. Chains with refused texts are made again.

    Args:
        task: the shard.
        directory: folder of the stage.
        identity: see :class:`Journal`.

    Raises:
        StageError: another process is working on it, or its journal is from other settings.

    Attributes:
        planned: number of chains, once all of them were handed out; None before.
    """

    def __init__(self, task: ShardTask, directory: Path, identity: int):
        self.task = task
        self.directory = directory
        self.planned: int | None = None
        self._closed = False
        self._wordings: frozenset[str] = frozenset()
        self._lock = task.locked(directory)
        self._lock.__enter__()
        try:
            task.remove_leftovers(directory)
            self.journal = Journal(task.journal_path(directory), identity)
            if ShardMarkers(directory).counts(task.name) is None:
                for index in list(self.journal):
                    if _REFUSED in self.journal.payload(index):
                        self.journal.drop(index)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def plan(
        self, prompts: StyleMixture, chain_length: int, characters: int
    ) -> Iterator[tuple[list[PlannedChain], int]]:
        """Batches of chains that are not in the journal yet, each with the number of documents skipped since the last.

        Args:
            prompts: the prompt styles, which render the texts and count tokens.
            chain_length: texts per chain.
            characters: maximum characters of a text.
        """
        self._wordings = prompts.wordings
        batch: list[tuple[int, Chain]] = []
        texts = skipped = index = 0
        for index, chain in enumerate(chains_of_shard(self.task.source, prompts, chain_length, characters), 1):
            if index - 1 in self.journal:
                skipped += sum("#" not in example.id for example in chain.examples)
                continue
            batch.append((index - 1, chain))
            texts += len(chain.examples)
            if texts >= _BATCH_TEXTS:
                yield planned(batch, prompts), skipped
                batch, texts, skipped = [], 0, 0
        self.planned = index
        yield planned(batch, prompts), skipped

    @property
    def complete(self) -> bool:
        """Whether every chain is in the journal."""
        return self.planned is not None and len(self.journal) == self.planned

    def has_pairs(self) -> bool:
        """Whether a chain in the journal has pairs; reads up to the first that does."""
        outcomes = (Outcome.load(self.journal.payload(index)) for index in self.journal)
        return any(example.pairs for outcome in outcomes for chain in outcome.chains for example in chain.examples)

    def finish(self) -> None:
        """Writes the shard's files and marker; call when complete.

        Raises:
            StorageError: they could not be written; the journal stays.
        """
        assert self.planned is not None
        statistics = Statistics()
        seen: set[int] = set()
        with (
            Rejects(self.task.rejects_path(self.directory)) as rejects,
            atomic_jsonl(self.directory / self.task.name) as writer,
        ):
            for index in range(self.planned):
                outcome = Outcome.load(self.journal.payload(index))
                for chain in outcome.chains:
                    writer.write(chain.to_json())
                    statistics.add_chain(chain)
                    for example in chain.examples:
                        own = [pair.question for pair in example.pairs if pair.question not in self._wordings]
                        if own:
                            digest = xxhash.xxh3_64_intdigest(orjson.dumps(own))
                            # Not counted as 0: see Synthesizer.
                            if digest in seen:
                                statistics.counts[REPEATED_TEXTS] += 1
                            seen.add(digest)
                statistics.counts.update(outcome.counts)
                for text, drop in outcome.drops:
                    rejects.add(drop.reason, text, sample=drop.sample)
        statistics.dropped.update(rejects.reasons)
        ShardMarkers(self.directory).finish(self.task.name, statistics.to_json())
        self.close()

    def close(self) -> None:
        """Releases the shard. Finished chains stay in the journal, which is removed once the shard is done."""
        if self._closed:
            return
        self._closed = True
        try:
            self.journal.close()
        finally:
            if ShardMarkers(self.directory).counts(self.task.name) is not None:
                self.task.remove_journal(self.directory)
            self._lock.__exit__(None, None, None)


def chains_of_shard(source: Path, prompts: StyleMixture, chain_length: int, characters: int) -> Iterator[Chain]:
    """The chains of the documents in ``source``, in order; for the arguments see :meth:`ShardJob.plan`."""
    documents = (Document.from_json(record) for record in read_jsonl(source))
    return chain_up(documents, chain_length, characters, prompts.divide)


def planned(chains: Iterable[tuple[int, Chain]], prompts: StyleMixture) -> list[PlannedChain]:
    """Numbered chains, each with its style and what is asked about each of its texts."""
    numbered = list(chains)
    asked = prompts.ask([chain for _, chain in numbered])
    return [PlannedChain(index, chain, by, texts) for (index, chain), (by, texts) in zip(numbered, asked)]
