"""From the files of a data set to the selected examples, with ids and splits.

They are kept as JSON Lines in a work folder, because they are read twice: to train a tokenizer, if one is trained, and
to be encoded. What cannot be used goes to the rejects with file and line.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.documents import split_of
from megatron_ipt.corpus.inputs import InputFile, base_suffix, find_files
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_jsonl, is_remote, read_jsonl
from megatron_ipt.rejects import Rejects
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.from_text.replay.config import ReplayConfig
from megatron_ipt.synthesis.from_text.replay.source import PairReader
from megatron_ipt.synthesis.pairs import Example
from megatron_ipt.tuning.chats import Chat, read_chats
from megatron_ipt.tuning.config import SYNTHESIZER_EXAMPLES, TuningConfig

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".txt", "")


@dataclass(frozen=True)
class Collected:
    """Examples of a data set in a file.

    Attributes:
        name: of the data set.
        path: JSON Lines of ``{split, example}`` or ``{split, chat}``.
        rejects: takes what turns out to be unusable later.
        read: number of pairs or chats that could be read, selected or not.
        rejected: number of those that could not.
    """

    name: str
    path: Path
    rejects: Rejects
    read: int
    rejected: int

    def check_rejects(self) -> None:
        """Raises InputError when too much of the data set was rejected, while reading or since."""
        rejected_later = self.rejects.count - self.rejected
        self.rejects.check(max(0, self.read - rejected_later), final=True)

    def examples(self) -> Iterator[tuple[str, Example]]:
        """(split, text with pairs) of a data set for the synthesizer."""
        for record in read_jsonl(self.path):
            yield record["split"], Example.from_json(record["example"])

    def chats(self) -> Iterator[tuple[str, Chat]]:
        """(split, chat) of a data set of instructions."""
        for record in read_jsonl(self.path):
            yield record["split"], Chat(**record["chat"])


def files_of(config: TuningConfig, name: str) -> list[InputFile]:
    """The input files of data set ``name``.

    Raises:
        InputError: an input is missing or at a remote address.
    """
    inputs, key = config.datasets[name].inputs, f"tuning.datasets.{name}.inputs"
    remote = next(filter(is_remote, inputs), None)
    if remote is not None:
        raise InputError(f"{key}: {remote}: remote addresses are not supported; copy the file here")
    files, _ = find_files(inputs, lambda path: path in inputs or base_suffix(path) in _SUFFIXES, key)
    return files


def collect(config: TuningConfig, name: str, seed: int, folder: Path, rejects: Rejects) -> Collected:
    """Reads the files of data set ``name``, selects examples and writes them to ``folder``."""
    path = folder / f"{name}.jsonl"
    records = _texts if config.kind == "synthesizer" else _chats
    read: Counter[str] = Counter()
    with atomic_jsonl(path) as writer:
        for record in records(config, name, seed, rejects, read):
            writer.write(record)
    return Collected(name, path, rejects, read.total(), rejects.count)


def _texts(
    config: TuningConfig, name: str, seed: int, rejects: Rejects, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    dataset = config.datasets[name]

    def read() -> Iterator[tuple[str, Example]]:
        for file in files_of(config, name):
            replay = ReplayConfig(
                [file.path], dataset.format, config.problems_per_example, config.valid_share, config.test_share
            )
            reader = PairReader(replay, 1, seed, f"tuning.datasets.{name}")
            for chain in reader.read(Path(file.path), rejects):
                for example in chain.examples:
                    counts["pairs"] += len(example.pairs)
                    yield chain.split, example

    limit = dataset.max_examples or SYNTHESIZER_EXAMPLES
    most = heapq.nsmallest(limit, read(), key=lambda item: (-len(item[1].pairs), derive(seed, name, item[1].id)))
    for split, example in most:
        if example.pairs:
            yield {"split": split, "example": example.to_json()}


def _chats(
    config: TuningConfig, name: str, seed: int, rejects: Rejects, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    dataset = config.datasets[name]

    def read() -> Iterator[Chat]:
        for file in files_of(config, name):
            for chat in read_chats(Path(file.path), file.name, dataset.format, rejects):
                counts["chats"] += 1
                yield chat

    chats: Iterator[Chat] = read()
    if dataset.max_examples is not None:
        chats = iter(heapq.nsmallest(dataset.max_examples, chats, key=lambda chat: derive(seed, name, chat.id)))
    for chat in chats:
        split = chat.split or split_of(chat.id, seed, config.valid_share, config.test_share)
        yield {"split": split, "chat": asdict(chat)}
