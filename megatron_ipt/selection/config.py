"""Recipe sections ``scoring`` and ``selection``.

Two stages, because they differ in everything that a stage is: scoring runs models for hours, on GPUs, shard by shard;
selection takes minutes without one and is what a user repeats with another share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from megatron_ipt.config import key
from megatron_ipt.errors import did_you_mean
from megatron_ipt.inference.config import (
    GenerationConfig,
    MegatronConfig,
    OpenAIConfig,
    TensorRTConfig,
    TransformersConfig,
)
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.selection.rules import RULES, UNITS_OF_SHARE

_NAME = re.compile(r"[A-Za-z0-9_-]+")


LEARNED = "learned"
"""Value of the key ``engine`` of a scorer that was fitted to proxy scores."""


def _engines() -> list[str]:
    return [*(name for name, row in ENGINES.items() if row.scores), LEARNED]


@dataclass
class ScorerGeneration(GenerationConfig):
    context_length: int = key(4096, "Tokens that the model, or the server of it, is able to take at once.", minimum=128)
    max_new_tokens: int = key(1, "Nothing is generated; some servers need room for one token.", minimum=1)


@dataclass
class ScorerConfig:
    engine: str = key(
        "transformers",
        f"What runs the model: {', '.join(_engines())}. module:Class or path/to/file.py:Class: a custom engine. "
        f"{LEARNED} is a scorer of the stage fitting: of this recipe, or of the folder generation.model.",
    )
    generation: ScorerGeneration = key(ScorerGeneration, "Model and tokenizer.")
    transformers: TransformersConfig = key(TransformersConfig, f"Settings of the engines transformers and {LEARNED}.")
    megatron: MegatronConfig = key(MegatronConfig, "Settings of the engine megatron.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    options: dict[str, Any] = key({}, "Settings of a custom engine.")
    seq_length: int | None = key(
        None,
        "Longer documents are scored in windows of this many input tokens that overlap by one token. By default, as "
        "long as the engine can.",
        minimum=1,
    )
    prepend_bos: bool = key(True, "Begin every document with the tokenizer's BOS token, if it has one.")
    append_eod: bool = key(True, "End every document with the tokenizer's EOS token, which is predicted as well.")
    eod_mask: bool = key(
        True, "Do not count tokens that follow an end-of-document token, as training.data.eod_mask_loss."
    )
    trained_on: str = key(
        "",
        "Folder of the stage corpus of the run that trained this model. Documents in it must not be scored; empty does "
        "not check.",
        affects_output=False,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        known = _engines()
        if self.engine not in known and ":" not in self.engine:
            yield (
                "engine",
                f"{self.engine!r} is not one of {', '.join(known)}, nor module:Class or path/to/file.py:Class."
                f"{did_you_mean(self.engine, known)}",
            )
        if not self.generation.model and ":" not in self.engine and self.engine != LEARNED:
            yield "generation.model", f"required by the engine {self.engine}: folder or name of the model"


@dataclass
class ScoringConfig:
    # Compared by the fingerprint of each scorer instead: a scorer that is added leaves finished scores valid.
    scorers: dict[str, ScorerConfig] = key(
        {}, "Models that score every training document, by name. Empty: no such stage.", affects_output=False
    )

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return bool(self.scorers)

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.scorers:
            if not _NAME.fullmatch(name):
                yield f"scorers.{name}", "is used as a folder name; use letters, digits, - and _ only"


@dataclass
class SelectionConfig:
    SECTION: ClassVar[str] = "selection"
    SCORED_BY: ClassVar[str] = "scoring"
    """The section whose scores it reads."""
    SCORE: ClassVar[str] = "megatron-ipt score"
    """The command that makes them."""
    UNIT: ClassVar[str] = "document"
    """What is kept or left out."""

    rule: str = key(
        "",
        "Empty: no such stage. " + "; ".join(f"{name}: {row.help}" for name, row in RULES.items()) + ".",
        choices=("", *RULES),
    )
    share: float = key(0.5, "Share of the training documents to keep, read as a decimal: 0.57 of 100 are 57.",
        minimum=0, maximum=1,
    )  # fmt: skip
    share_of: str = key(
        "documents",
        "What share is a share of. With tokens or bytes, the longest beginning of the order that fits is kept; tokens "
        "are those that the scorer predicted.",
        choices=UNITS_OF_SHARE,
    )
    teacher: str = key("teacher", "difference: the scorer whose opinion counts.")
    reference: str = key("reference", "difference: the scorer that it is compared with.")
    scorer: str = key("", "top_k, gumbel: the scorer. May be left out if there is only one.")
    scored_in: str = key(
        "",
        "Folder of the stage scoring of another run over the same corpus, whose scores are used, e.g. "
        "runs/miniplm/scoring. By default, those of this run.",
    )
    scores: str = key(
        "",
        "scores, gumbel: file with a score for each document: JSON Lines of {id, score}, or .npy with the fields id "
        "and score.",
    )
    per: str = key(
        "token",
        "What log-likelihoods are divided by: the tokens that were predicted, the bytes of the text, or nothing.",
        choices=("token", "byte", "document"),
    )
    prefer: str = key("high", "Whether high or low scores are kept.", choices=("high", "low"))
    temperature: float = key(0.1, "gumbel: scores are divided by it before noise is added.")
    domain_shares: dict[str, float] = key(
        {},
        "Shares of single domains, e.g. {code: 0.8}; documents of other domains compete with each other for share.",
        minimum=0,
        maximum=1,
    )
    domain_minimum: float = key(
        0.0, "Of every domain keep at least this share, its best documents first.", minimum=0, maximum=1
    )
    compare_with: dict[str, str] = key(
        {},
        "Other scorers by the key they stand in for, e.g. {teacher: teacher_fp32}: the report says how many documents "
        "would change sides. For another precision, another size of the teacher, another seed of the reference.",
        affects_output=False,
    )
    labels: str = key(
        "",
        "File of {id, label}, JSON Lines: the report says how well the score, and each scorer of a difference alone, "
        "tell documents with the label good_label from the others (ROC AUC). Nothing that is kept depends on it.",
        affects_output=False,
    )
    good_label: str = key("good", "labels: the label of documents that should be kept.", affects_output=False)
    samples: int = key(20, "Texts at the top, at the cut and at the bottom to show.", minimum=1, affects_output=False)
    workers: int = key(1, "Processes that read and write documents.", minimum=1, affects_output=False)

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return bool(self.rule)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.rule:
            return
        if self.rule == "gumbel" and not self.temperature > 0:
            yield "temperature", f"{self.temperature:g} is not above 0; for no noise at all use top_k or scores"
        if self.rule == "scores" and not self.scores:
            yield "scores", "required by the rule scores: a file of {id, score}"
        if self.scores and self.rule not in ("scores", "gumbel"):
            yield "scores", f"is set, but the rule is {self.rule}; set the rule to scores or gumbel to use it"
        if self.scores and self.scorer:
            yield "scorer", "is set beside scores; keep one of them"
        if self.rule == "difference" and self.teacher == self.reference:
            yield "reference", f"is {self.reference!r}, like the teacher; name another scorer"
        if self.share_of == "tokens" and (self.rule == "random" or self.scores):
            yield "share_of", "tokens are counted by a scorer, and this rule has none; use bytes or documents"
        read = {"difference": ("teacher", "reference"), "top_k": ("scorer",), "gumbel": ("scorer",)}.get(self.rule, ())
        for name in self.compare_with:
            if name not in read or self.scores:
                yield (
                    f"compare_with.{name}",
                    f"is not the key of a scorer that the rule reads; it reads {', '.join(read) or 'none'}",
                )
        if self.domain_minimum > self.share:
            yield "domain_minimum", f"{self.domain_minimum:g} is more than share={self.share:g}"

    def key(self, name: str) -> str:
        """Full name of a key, for messages."""
        return f"{self.SECTION}.{name}"

    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers whose scores it reads; empty for none, and for the only one there is."""
        if self.rule == "difference":
            return (self.teacher, self.reference)
        return (self.scorer,) if self.scorer and self.rule in ("top_k", "gumbel") else ()

    def compared(self) -> SelectionConfig | None:
        """The same selection by the other scorers; None if there are none."""
        return replace(self, **cast("dict[str, Any]", self.compare_with)) if self.compare_with else None

    def scores_file(self) -> Path | None:
        """The user's file of scores."""
        return Path(self.scores).expanduser() if self.scores else None
