"""One shard: what holds a test question is left out, everything else is written again as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_ipt.decontamination.index import Index, Match, Question, batches
from megatron_ipt.decontamination.tally import DOCUMENT, PAIR, PAIR_OF_TEXT, TEXT, Tally, shown_words
from megatron_ipt.files import JsonlWriter, atomic_jsonl, read_jsonl, remove_leftovers
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.rejects import Rejects

REJECTS_FOLDER = "rejects"
Held = tuple[str, str, Match]
"""A part of a pair or the like, its text, and a test question in it."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to make: from the file ``source`` to ``name`` below the folder of the stage.

    Attributes:
        lane: of documents; empty for chains.
    """

    name: str
    source: Path
    lane: str = ""

    def rejects_path(self, directory: Path) -> Path:
        return directory / REJECTS_FOLDER / f"{self.name.split('.', 1)[0]}.jsonl"


def clean_shard(task: ShardTask, questions: Path, ngram: int, directory: Path) -> dict[str, Any]:
    """Makes one shard, unless it is finished; returns its :class:`Tally` as JSON.

    Args:
        questions: file with the test questions.
    """
    markers = ShardMarkers(directory)
    done = markers.counts(task.name)
    if done is not None:
        return done
    target = directory / task.name
    rejects_path = task.rejects_path(directory)
    remove_leftovers(target.parent, target.name)
    remove_leftovers(rejects_path.parent, rejects_path.name)
    index = index_in(questions, ngram)
    tally = Tally()
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(rejects_path))
        writer = stack.enter_context(atomic_jsonl(target))
        shard = _Shard(task, index, tally, rejects, writer)
        (shard.documents if task.lane else shard.chains)(enumerate(read_jsonl(task.source), 1))
    tally.dropped.update(rejects.reasons)
    result = tally.to_json()
    markers.finish(task.name, result)
    return result


def index_in(questions: Path, ngram: int) -> Index:
    """The index of the test questions in a file, built once in a process."""
    return _index_in(questions, ngram, questions.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _index_in(questions: Path, ngram: int, changed: int) -> Index:
    return Index((Question(row["test_set"], row["number"], row["text"]) for row in read_jsonl(questions)), ngram)


class _Shard:
    """The parts of one shard, and where they go."""

    def __init__(self, task: ShardTask, index: Index, tally: Tally, rejects: Rejects, writer: JsonlWriter):
        self._task, self._index, self._tally, self._rejects, self._writer = task, index, tally, rejects, writer

    def documents(self, records: Iterable[tuple[int, dict[str, Any]]]) -> None:
        counts = self._tally.counts
        for (line, record), found in self._found(((line, record), [record["text"]]) for line, record in records):
            (matches,) = found
            if matches:
                held = [("text", record["text"], match) for match in matches]
                self._reject(DOCUMENT, "documents", line, record["id"], held, record["text"])
            else:
                counts["documents"] += 1
                counts[f"{self._task.lane}_documents"] += 1
                self._writer.write(record)

    def chains(self, records: Iterable[tuple[int, dict[str, Any]]]) -> None:
        counts = self._tally.counts
        items = ((entry, list(_texts_of_chain(entry[1]))) for entry in records)
        for (line, record), found in self._found(items):
            remaining = iter(found)
            examples = [
                kept for example in record["examples"] if (kept := self._example(example, line, remaining)) is not None
            ]
            if examples or not record["examples"]:
                counts["chains"] += 1
                self._writer.write(record | {"examples": examples})
            else:
                counts["chains_without_texts"] += 1

    def _example(self, example: dict[str, Any], line: int, found: Iterator[tuple[Match, ...]]) -> dict[str, Any] | None:
        """What is left of an example; None if its text holds a test question."""
        counts, name = self._tally.counts, example["id"]
        in_text = next(found)
        pairs = []
        for pair in example["pairs"]:
            held = [(part, text, match) for part, text in parts_of(pair) for match in next(found)]
            if held:
                self._reject(PAIR, "pairs", line, name, held, f"{pair['question']}\n{pair['answer']}")
            elif in_text:
                self._rejects.add(
                    PAIR_OF_TEXT, str(self._task.source), line, name, f"{pair['question']}\n{pair['answer']}"
                )
            else:
                pairs.append(pair)
        if in_text:
            held = [("text", example["text"], match) for match in in_text]
            self._reject(TEXT, "texts", line, name, held, example["text"])
            return None
        counts["texts"] += 1
        counts["texts_with_pairs"] += bool(pairs)
        counts["pairs"] += len(pairs)
        return example | {"pairs": pairs}

    def _reject(self, reason: str, kind: str, line: int, name: str, held: list[Held], sample: str) -> None:
        self._tally.add_matches(kind, name, held)
        reject(self._rejects, reason, str(self._task.source), line, name, held, sample)

    def _found(
        self, items: Iterable[tuple[tuple[int, dict[str, Any]], list[str]]]
    ) -> Iterator[tuple[tuple[int, dict[str, Any]], list[tuple[Match, ...]]]]:
        for batch in batches(items):
            found = iter(self._index.find([text for _, texts in batch for text in texts]))
            for item, texts in batch:
                yield item, [next(found) for _ in texts]


def reject(
    rejects: Rejects, reason: str, source: str, line: int | None, name: str, held: list[Held], sample: str
) -> None:
    """Notes what is removed with the first test question that it holds, and in how many others it shares words."""
    part, _, match = held[0]
    others = len({other.question for _, _, other in held}) - 1
    more = f", and of {others:,} other questions" if others else ""
    question = match.question
    rejects.add(
        reason, source, line,
        f"{name}: {part} has words of question {question.number} of {question.test_set}{more}", sample,
        test_set=question.test_set, question=question.number, words=shown_words(match),
    )  # fmt: skip


def parts_of(pair: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of everything in a pair that a model could learn."""
    yield "question", pair["question"]
    yield "answer", pair["answer"]
    if pair.get("reasoning"):
        yield "reasoning", pair["reasoning"]
    for option in pair.get("options", ()):
        if option != pair["answer"]:
            yield "option", option


def _texts_of_chain(record: dict[str, Any]) -> Iterator[str]:
    for example in record["examples"]:
        yield example["text"]
        for pair in example["pairs"]:
            yield from (text for _, text in parts_of(pair))
