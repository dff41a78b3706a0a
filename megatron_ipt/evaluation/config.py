"""Recipe section ``evaluation``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class EvaluationConfig:
    parity_tokens: int = key(
        2048, "Held-out tokens on which the logits of Megatron and transformers are compared.", minimum=1
    )
    parity_tolerance: float = key(
        1e-4,
        "Largest difference of logits allowed in fp32, relative to their spread; above it the stage fails.",
        minimum=0,
    )
    perplexity_tokens: int = key(1_000_000, "Held-out tokens per validation set to measure perplexity on.", minimum=1)
    prompts: list[str] = key([], "Texts to continue; beginnings of held-out documents if empty.")
    generations: int = key(4, "Generations from held-out documents when no prompts are given.", minimum=0)
    max_new_tokens: int = key(60, "Tokens per generation.", minimum=1)
