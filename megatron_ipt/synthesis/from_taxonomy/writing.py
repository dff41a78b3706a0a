"""Writes a discipline whose calls are all answered: its tree, chains for pre-training, rows for tuning, and rejects.

Every file appears completely or not at all, the marker comes last, and until it is there a rerun repeats this from the
journal with the same bytes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.documents import split_of
from megatron_ipt.files import atomic_jsonl
from megatron_ipt.inference.run import run_coroutine
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_taxonomy.asking import Call
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.counts import (
    NEVER,
    calls_in,
    empty,
    reason_of,
    saturation,
)
from megatron_ipt.synthesis.from_taxonomy.growing import (
    Grower,
    GrownPair,
    Node,
    Visitor,
)
from megatron_ipt.synthesis.from_taxonomy.journal import CallJournal, Reply
from megatron_ipt.synthesis.from_taxonomy.outline.parsing import Subject
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import Prompts
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import REFUSED_CALLS, Discipline, path_of
from megatron_ipt.synthesis.from_text.categories import classify
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from megatron_ipt.synthesis.shard_files import ShardFiles

TREE_FOLDER, ROWS_FOLDER = "tree", "rows"


def write_discipline(
    config: TaxonomyConfig,
    prompts: Prompts,
    seed: int,
    directory: Path,
    discipline: Discipline,
    files: ShardFiles,
    journal: CallJournal,
) -> dict[str, Any]:
    """Writes everything but the marker; returns the counts for it.

    Raises:
        StorageError: a file could not be written.
    """
    rows = directory / ROWS_FOLDER / files.name
    replies: list[tuple[str, Reply]] = []
    with contextlib.ExitStack() as stack:
        writer = _Writer(
            config,
            seed,
            discipline,
            tree=stack.enter_context(atomic_jsonl(directory / TREE_FOLDER / f"{files.stem}.jsonl")),
            chains=stack.enter_context(atomic_jsonl(directory / files.name)),
            rows=stack.enter_context(atomic_jsonl(rows)),
            rejects=stack.enter_context(Rejects(files.rejects_path(directory))),
        )

        async def answered(call: Call) -> Reply:
            reply = journal.reply(call.id, call.asked)
            assert reply is not None, call.id
            replies.append((call.level, reply))
            return reply

        run_coroutine(Grower(config, prompts, seed, answered, writer, together=1).grow(discipline))
        writer.end()
    writer.counts["calls"] = calls_in(replies)
    writer.counts[REFUSED_CALLS] = sum(level.get("refused", 0) for level in writer.counts["calls"].values())
    return writer.counts


class _Writer(Visitor):
    def __init__(
        self, config: TaxonomyConfig, seed: int, discipline: Discipline, tree: Any, chains: Any, rows: Any, rejects: Any
    ):
        self._config = config
        self._seed = seed
        self._discipline = discipline
        self._tree, self._chains, self._rows, self._rejects = tree, chains, rows, rejects
        self._document: list[GrownPair] = []
        self.counts = empty()
        self.counts["disciplines"] = 1
        facts = {"field": discipline.field, "sub_field": discipline.sub_field, "name": discipline.name}
        parent = path_of(discipline.field, discipline.sub_field)
        self.node(Node(discipline.path, "discipline", parent, facts={**facts, "weight": discipline.weight}))

    def node(self, node: Node) -> None:
        record = {"id": node.id, "kind": node.kind, "parent": node.parent, **node.facts}
        if node.text:
            record["text"] = node.text
        if node.failed:
            record["failed"] = node.failed
            self._rejects.add(f"{node.kind}: {reason_of(node.failed)}, tried again", node.id, sample=node.text)
        if node.lost:
            record["lost"] = node.lost
            reason = f"{node.kind}: {reason_of(node.lost)}"
            self._rejects.add(reason, node.id, detail=node.lost, sample=node.text)
            self._count("lost", reason)
        self._tree.write(record)
        if node.kind == "list":
            self.counts["lists"] += 1
        elif node.kind == "subject":
            self._flush()
            self.counts["subjects"] += 1
        elif node.kind == "syllabus":
            self.counts["syllabi"] += 1

    def conversion(self, level: str, attempt: int | None, objects: int, unusable: Counter[str]) -> None:
        self._count("json_tries", level, NEVER if attempt is None else str(attempt))
        for reason, count in unusable.items():
            self._count("unusable_objects", reason, amount=count)
        if level == "sessions as JSON":
            self.counts["sessions"] += objects

    def merged(self, subjects: int) -> None:
        self.counts["merged_subjects"] += subjects

    def drawn(self, drawn: int, there_are: int, wanted: int) -> None:
        self.counts["draws"] += drawn
        self.counts["draws_possible"] += there_are
        self.counts["draws_wanted"] += wanted

    def questions(self, subject: Subject, questions: Sequence[str], repeated: Sequence[bool]) -> None:
        self.counts["questions"] += len(questions)
        for first, counts in saturation(repeated).items():
            for name, count in counts.items():
                self._count("saturation", first, name, amount=count)
        level = subject.level.casefold() or "(none)"
        self._count("levels", level, "questions", amount=len(questions))
        self._count("levels", level, "words", amount=sum(len(question.split()) for question in questions))

    def pair(self, pair: GrownPair) -> None:
        self.counts["pairs"] += 1
        split = self._split(pair)
        self._count("splits", split)
        self._rows.write(
            {
                "id": pair.id,
                "prompt": pair.question,
                "response": pair.answer,
                "field": self._discipline.field,
                "discipline": self._discipline.name,
                "subject": pair.subject.name,
                "level": pair.subject.level,
                "split": split,
            }
        )
        self._document.append(pair)
        if len(self._document) == self._config.pairs_per_document:
            self._flush()

    def end(self) -> None:
        """Call after the last node."""
        self._flush()

    def _flush(self) -> None:
        if not self._document:
            return
        pairs = [Pair(pair.question, pair.answer) for pair in self._document]
        pairs = [pair._replace(category=classify(pair)) for pair in pairs]
        first = self._document[0]
        example = Example(first.id, "", pairs=pairs)
        self._chains.write(Chain(first.id, self._split(first), [example], self._discipline.field).to_json())
        self.counts["texts"] += 1
        self._document = []

    def _split(self, pair: GrownPair) -> str:
        subject = path_of(self._discipline.path, pair.subject.title)
        return split_of(subject, self._seed, self._config.valid_share, self._config.test_share)

    def _count(self, *names: str, amount: int = 1) -> None:
        *groups, last = names
        counts = self.counts
        for group in groups:
            counts = counts.setdefault(group, {})
        counts[last] = counts.get(last, 0) + amount
