"""Recipe section ``evaluation``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_ipt.config import key
from megatron_ipt.corpus.config import CorpusConfig, ReadOverrides
from megatron_ipt.evaluation.harness.config import HarnessConfig
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.files import is_file_name


@dataclass
class EvaluationConfig:
    parity_tokens: int = key(
        2048, "Held-out tokens on which logits of Megatron-Core and transformers are compared.", minimum=1
    )
    parity_tolerance: float = key(
        1e-4,
        "Maximum difference of logits in fp32, relative to their standard deviation; above it the stage fails.",
        minimum=0,
    )
    perplexity_tokens: int = key(1_000_000, "Held-out tokens per validation set for perplexity.", minimum=1)
    texts: dict[str, str] = key(
        {},
        "Additional held-out texts, as NAME: FILE, read like corpus.inputs (also folders and patterns); the loss on "
        "each is measured.",
    )
    read: ReadOverrides = key(ReadOverrides, "How the files of texts are read.")
    questions: dict[str, str] = key(
        {},
        "Questions about unseen texts, as NAME: FILE: JSONL with context, question, answer, options. Measures the loss "
        "of answers, and how often the correct option has the highest likelihood.",
    )
    answer_tokens: int = key(
        0,
        "Maximum tokens of answers that are generated to the questions, for exact match and F1 as for SQuAD; 0 "
        "generates none.",
        minimum=0,
    )
    checkpoints: str = key(
        "last",
        "last: only the exported checkpoint. all: also every other checkpoint that training kept, for curves of loss "
        "and accuracy over tokens; each is exported, measured and removed.",
        choices=("last", "all"),
    )
    harness: HarnessConfig = key(HarnessConfig, "Benchmarks of lm-evaluation-harness (extra `eval`).")
    in_context: InContextConfig = key(
        InContextConfig, "Demonstrations before questions and benchmarks, also thousands (structured prompting)."
    )
    prompts: list[str] = key([], "Prompts to complete. Empty: beginnings of held-out documents.")
    generations: int = key(4, "Number of generations from held-out documents if there are no prompts.", minimum=0)
    max_new_tokens: int = key(60, "Maximum tokens per generation.", minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.texts:
            if not is_file_name(name):
                yield f"texts.{name}", "the name becomes part of file names; use letters, digits, - and _"
        if self.in_context.mode == "none":
            return
        for name in self.questions:
            if name not in self.in_context.files:
                yield f"in_context.files.{name}", f"missing: where the demonstrations of questions.{name} are"
        for name in self.in_context.files:
            if name not in self.questions:
                yield f"in_context.files.{name}", "there are no evaluation.questions of this name"

    def inherit(self, corpus: CorpusConfig) -> EvaluationConfig:
        """These settings with what ``read`` leaves empty taken from ``corpus``, where there are texts to read."""
        return replace(self, read=self.read.inherit(corpus)) if self.texts else self
