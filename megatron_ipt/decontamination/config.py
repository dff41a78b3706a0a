"""Recipe section ``decontaminate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from megatron_ipt.config import key

NGRAM = 13
"""Words in a row that a text must share with a test question."""
SHORTEST = 4
"""Words of the shortest test question that is looked for inside of texts."""
QUESTION_KEYS = ("question", "problem", "query", "prompt", "instruction", "goal", "text")


class Benchmark(Protocol):
    """A benchmark task, as far as it matters here."""

    @property
    def task(self) -> str: ...


class Harness(Protocol):
    """What is read of the recipe section ``evaluation.harness``."""

    @property
    def include_path(self) -> str: ...

    @property
    def questions_reader(self) -> str: ...

    def benchmarks(self) -> Sequence[Benchmark]: ...


class Evaluation(Protocol):
    """What is read of the recipe section ``evaluation``."""

    @property
    def questions(self) -> dict[str, str]: ...

    @property
    def harness(self) -> Harness: ...


@dataclass
class DecontaminateConfig:
    against: list[str] = key(
        [],
        "Test sets: files, folders or glob patterns of JSON Lines, JSON (also SQuAD), Parquet, or text with a question "
        "a line, optionally .gz or .zst.",
    )
    question_keys: list[str] = key(
        list(QUESTION_KEYS),
        "Fields or columns of a record that may hold its question; the first that a record has counts.",
    )
    benchmarks: bool | None = key(
        None,
        "Also against what the recipe evaluates: evaluation.questions and the tasks of evaluation.harness. Null: if "
        "the recipe has this stage for another reason.",
    )
    training_sets: bool = key(
        True, "Also against the training and validation sets of the tasks, as GLAN does, not only what is evaluated."
    )
    questions: dict[str, str] = key(
        {}, "Further files of questions, as NAME: FILE; with benchmarks, those of evaluation.questions are among them."
    )
    tasks: list[str] = key(
        [], "Further tasks of lm-evaluation-harness; with benchmarks, those of evaluation.harness are among them."
    )
    include_path: str = key(
        "", "Folder with custom task files. Empty: with benchmarks, that of evaluation.harness.include_path."
    )
    tasks_reader: str = key(
        "",
        "What reads the questions of tasks, module:function or path/to/file.py:function. Empty: that of "
        "lm-evaluation-harness (extra `eval`).",
    )
    ngram: int = key(
        NGRAM,
        "Words in a row that a text must share with a test question; all words of shorter ones, from 4 on. Of "
        "questions below 4 words, the whole text must be equal.",
        minimum=SHORTEST,
    )
    near_duplicates: float | None = key(
        None,
        "Also remove pairs whose question is this similar to an earlier one, 0 to 1, e.g. 0.8; null: keep them. Meant "
        "for pairs without texts: questions such as 'What is this text about?' repeat with good reason.",
        minimum=0.1,
        maximum=1,
    )
    workers: int = key(1, "Processes that work on shards in parallel.", minimum=1, affects_output=False)

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return self.has_tests() or bool(self.benchmarks) or self.near_duplicates is not None

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.question_keys:
            yield "question_keys", "is empty; name at least one field"
        if self.wanted() and self.near_duplicates is None and not self.has_tests():
            yield (
                "benchmarks",
                "the recipe evaluates no questions and no tasks, and against names no files: there is nothing to "
                "compare with",
            )

    def has_tests(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self.against or self.questions or self.tasks)

    def inherit(self, evaluation: Evaluation) -> DecontaminateConfig:
        """A copy that takes from ``evaluation`` which questions and tasks it has, where it asks for these, and what
        reads tasks."""
        if not self.wanted():
            return self
        harness = evaluation.harness
        reader = self.tasks_reader or harness.questions_reader
        if self.benchmarks is False:
            return replace(self, tasks_reader=reader if self.tasks else self.tasks_reader)
        tasks = list(dict.fromkeys([*self.tasks, *(benchmark.task for benchmark in harness.benchmarks())]))
        return replace(
            self,
            questions={**evaluation.questions, **self.questions},
            tasks=tasks,
            include_path=self.include_path or (harness.include_path if tasks else ""),
            tasks_reader=reader if tasks else self.tasks_reader,
        )
