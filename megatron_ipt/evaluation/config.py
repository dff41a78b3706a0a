"""Recipe section ``evaluation``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.evaluation.harness.config import HarnessConfig


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
        {}, "Additional held-out texts, as NAME: FILE, read like corpus.inputs; the loss on each is measured."
    )
    questions: dict[str, str] = key(
        {},
        "Questions about unseen texts, as NAME: FILE: JSONL with context, question, answer, options. Measures the loss "
        "of answers, and how often the correct option has the highest likelihood.",
    )
    checkpoints: str = key(
        "last",
        "last: only the exported checkpoint. all: also every other checkpoint that training kept, for curves of loss "
        "and accuracy over tokens; each is exported, measured and removed.",
        choices=("last", "all"),
    )
    harness: HarnessConfig = key(HarnessConfig, "Benchmarks of lm-evaluation-harness (extra `eval`).")
    prompts: list[str] = key([], "Prompts to complete. Empty: beginnings of held-out documents.")
    generations: int = key(4, "Number of generations from held-out documents if there are no prompts.", minimum=0)
    max_new_tokens: int = key(60, "Maximum tokens per generation.", minimum=1)
