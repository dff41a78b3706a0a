"""Recipe section ``tuning``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.files import is_file_name
from megatron_ipt.synthesis.from_text.replay.config import FORMATS as TASK_FORMATS
from megatron_ipt.tokens.config import TokenizerConfig

CHAT_FORMATS = ("messages", "prompt_response")
FORMATS = (*TASK_FORMATS, *CHAT_FORMATS)
FORMATS_OF = {"synthesizer": TASK_FORMATS, "instructions": ("auto", *CHAT_FORMATS)}
"""Formats of the files by kind of tuning."""

MOST_DATASETS = 256
"""The source of a row is written in one byte."""

SYNTHESIZER_EXAMPLES = 10_000


@dataclass
class TuningDatasetConfig:
    """One data set. Rows never hold examples of two."""

    inputs: list[str] = key([], "Files, folders (searched recursively) or glob patterns, optionally .gz or .zst.")
    format: str = key(
        "auto",
        "Of the files. synthesizer: squad, tasks, questions, race, dream, gsm8k, aqua, chains; instructions: messages "
        "(chats) or prompt_response. auto: by the content of each file.",
        choices=FORMATS,
    )
    max_examples: int | None = key(
        None,
        "Most examples to take. synthesizer: texts, those with the most pairs first; empty for 10,000. "
        "instructions: chats, chosen by a hash; empty for all.",
        minimum=1,
    )
    repeat: int = key(1, "Times every training example occurs, in rows of another composition each time.", minimum=1)


@dataclass
class TuningConfig:
    """Data of which only a part is learned: pairs but not their texts, responses but not their prompts."""

    kind: str = key(
        "synthesizer",
        "synthesizer: texts with tasks to few-shot sequences, loss on the pairs; instructions: chats, loss on the "
        "responses.",
        choices=tuple(FORMATS_OF),
    )
    datasets: dict[str, TuningDatasetConfig] = key(
        {}, "What to tune on, by name. A recipe that names some is one for tuning and needs no corpus."
    )
    tokenizer: TokenizerConfig = key(TokenizerConfig, "That of the model to tune.")
    seq_length: int = key(4096, "Tokens that a row may make a model predict; a row has one more.", minimum=128)
    template: str = key(
        "chat_template",
        "instructions: how a chat is laid out. plain: prompt, a blank, response, as the paper's general instructions; "
        "chat: User: and Assistant: before what they say; chat_template: the template in the tokenizer's folder.",
        choices=("plain", "chat", "chat_template"),
    )
    multiple_choice_share: float = key(
        0.1,
        "synthesizer: share of the questions answered by words of the text that become multiple choice, with other "
        "answers about the same text as options.",
        minimum=0,
        maximum=1,
    )
    problems_per_example: int = key(
        5, "synthesizer: problems without a text (gsm8k, aqua) that make one example.", minimum=1
    )
    valid_share: float = key(0.02, "Share of examples, by hash of their id, held out for validation.", minimum=0)
    test_share: float = key(0.0, "Share of examples, by hash of their id, held out for a final test.", minimum=0)
    maximum_reject_share: float = key(
        0.5, "Stop when more than this share of a data set's questions or chats is rejected.", minimum=0, maximum=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, dataset in self.datasets.items():
            if not dataset.inputs:
                yield f"datasets.{name}.inputs", "is empty; name at least one file or folder"
            if dataset.format not in FORMATS_OF[self.kind]:
                known = ", ".join(FORMATS_OF[self.kind])
                yield f"datasets.{name}.format", f"{dataset.format} is not of kind {self.kind}, which reads {known}"
            if not is_file_name(name):
                yield f"datasets.{name}", "the name becomes part of file names; use letters, digits, - and _"
        if self.tokenizer.engine == "gigatoken":
            yield "tokenizer.engine", "gigatoken is for running text; rows are encoded by the tokenizer's own library"
        if len(self.datasets) > MOST_DATASETS:
            yield "datasets", f"has {len(self.datasets)} entries; at most {MOST_DATASETS} can be told apart"
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share together leave nothing to train on"
