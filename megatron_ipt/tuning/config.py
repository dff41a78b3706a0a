"""Recipe section ``tuning``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.config import key
from megatron_ipt.files import is_file_name, list_shards
from megatron_ipt.synthesis.from_text.replay.config import FORMATS as TASK_FORMATS
from megatron_ipt.tokens.config import TokenizerConfig

CHAINS_FORMAT = "chains"
"""What stages that make pairs write, and this package alone; each pair is a chat here."""
CHAT_FORMATS = ("messages", "prompt_response", CHAINS_FORMAT)
FORMATS = tuple(dict.fromkeys((*TASK_FORMATS, *CHAT_FORMATS)))
FORMATS_OF = {"synthesizer": TASK_FORMATS, "instructions": ("auto", *CHAT_FORMATS)}
"""Valid file formats by kind of tuning."""

MAXIMUM_DATASETS = 256
"""The dataset of a row is stored in one byte."""

SYNTHESIZER_EXAMPLES = 10_000

PAIRS = "pairs"
"""Name of the dataset that this recipe makes itself."""


@dataclass
class TuningDatasetConfig:
    """One dataset. Rows never mix examples from two datasets."""

    inputs: list[str] = key([], "Files, folders (searched recursively) or glob patterns, optionally .gz or .zst.")
    format: str = key(
        "auto",
        "File format. synthesizer: squad, tasks, questions, race, dream, gsm8k, aqua, chains; instructions: messages "
        "(chats), prompt_response, or chains (pairs of this package). auto: detected from the content of each file.",
        choices=FORMATS,
    )
    max_examples: int | None = key(
        None,
        "Maximum number of examples. synthesizer: texts, those with the most pairs first; null: 10,000. "
        "instructions: chats, chosen by a hash; null: all.",
        minimum=1,
    )
    repeat: int = key(1, "Number of passes over the training examples, each packed separately.", minimum=1)


@dataclass
class TuningConfig:
    """Data with a loss mask: loss on pairs but not on their texts, on responses but not on their prompts."""

    kind: str = key(
        "synthesizer",
        "synthesizer: few-shot sequences of texts with pairs, loss on the pairs; instructions: chats, loss on the "
        "responses.",
        choices=tuple(FORMATS_OF),
    )
    datasets: dict[str, TuningDatasetConfig] = key(
        {}, "Datasets to tune on, by name. A recipe with tuning datasets needs no corpus."
    )
    pairs: bool = key(
        False,
        "Also tune on the pairs that this recipe makes, e.g. from a taxonomy. Leave out the stages that would "
        "pre-train on them (augment: null, with a corpus also tokens: null).",
    )
    tokenizer: TokenizerConfig = key(TokenizerConfig, "Tokenizer of the model to tune.")
    seq_length: int = key(4096, "Maximum number of predicted tokens per row; a row has one token more.", minimum=128)
    template: str = key(
        "chat_template",
        "instructions: format of a chat. plain: prompt, space, response, like the general instructions of the paper; "
        "chat: messages prefixed with User: and Assistant:; chat_template: the template in the tokenizer's folder.",
        choices=("plain", "chat", "chat_template"),
    )
    multiple_choice_share: float = key(
        0.1,
        "synthesizer: fraction of questions with extractive answers to turn into multiple choice, with other answers "
        "about the same text as options.",
        minimum=0,
        maximum=1,
    )
    problems_per_example: int = key(
        5, "synthesizer: number of problems without a text (gsm8k, aqua) per example.", minimum=1
    )
    valid_share: float = key(0.02, "Fraction of examples held out for validation, by hash of their id.", minimum=0)
    test_share: float = key(0.0, "Fraction of examples held out for a final test, by hash of their id.", minimum=0)
    maximum_reject_share: float = key(
        0.5,
        "Maximum fraction of rejected questions or chats per dataset; above it the stage fails.",
        minimum=0,
        maximum=1,
    )

    def begins(self) -> bool:
        """Whether a flow can start with tuning data."""
        return bool(self.datasets)

    def wanted(self) -> bool:
        """Whether the recipe tunes at all."""
        return bool(self.datasets) or self.pairs

    def with_pairs(self, folder: Path) -> TuningConfig:
        """The same section, with the pairs in ``folder`` as one more dataset."""
        shards = [str(path) for path in list_shards(folder)]
        return replace(self, datasets={**self.datasets, PAIRS: TuningDatasetConfig(shards, CHAINS_FORMAT)})

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.pairs and PAIRS in self.datasets:
            yield f"datasets.{PAIRS}", "is the name of the pairs of this recipe (tuning.pairs); choose another name"
        for name, dataset in self.datasets.items():
            if not dataset.inputs:
                yield f"datasets.{name}.inputs", "is empty; give at least one file or folder"
            if dataset.format not in FORMATS_OF[self.kind]:
                known = ", ".join(FORMATS_OF[self.kind])
                yield f"datasets.{name}.format", f"{dataset.format} is not valid for kind {self.kind}; valid: {known}"
            if not is_file_name(name):
                yield f"datasets.{name}", "the name is used in file names; use letters, digits, - and _"
        if self.tokenizer.engine == "gigatoken":
            yield "tokenizer.engine", "gigatoken does not support tuning; rows need the tokenizer's own library"
        if len(self.datasets) > MAXIMUM_DATASETS:
            yield "datasets", f"has {len(self.datasets)} entries; the maximum is {MAXIMUM_DATASETS}"
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share leave nothing to train on"
