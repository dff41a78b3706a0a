"""Settings of the engine ``replay``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key

FORMATS = ("auto", "squad", "tasks", "questions", "race", "dream", "gsm8k", "aqua", "chains")


@dataclass
class ReplayConfig:
    """Which files hold the pairs. The documents of the corpus lane ``synthesis`` are not read by this engine."""

    inputs: list[str] = key(
        [], "Files with pairs, folders of such (searched recursively) or glob patterns, optionally .gz or .zst. Each "
        "file is a shard.",
    )  # fmt: skip
    format: str = key(
        "auto",
        "squad: JSON of paragraphs with questions and answers (QuAC too); tasks: JSONL of context and tasks, each with "
        "question, answer and maybe options or reasoning; questions: JSONL of one question a record, with its context; "
        "race: JSONL of article, questions, options, answers; dream: JSON of dialogues with questions; gsm8k: JSONL of "
        "question and answer ending in '#### x'; aqua: JSONL of question, options, rationale, correct; chains: JSONL "
        "as this stage writes it. auto: detected from the content.",
        choices=FORMATS,
    )
    problems_per_document: int = key(
        5, "Problems without a text (gsm8k, aqua) that share one document: a few-shot document.", minimum=1
    )
    valid_share: float = key(0.0, "Share of documents, by hash of their id, held out for validation.", minimum=0)
    test_share: float = key(0.0, "Share of documents, by hash of their id, held out for a final test.", minimum=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share together leave nothing to train on"
