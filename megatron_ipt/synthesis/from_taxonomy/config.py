"""Recipe section ``taxonomy``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import did_you_mean
from megatron_ipt.inference.config import (
    GenerationConfig,
    OpenAIConfig,
    TensorRTConfig,
    TransformersConfig,
    generation_problems,
)
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.inference.openai.profiles import PROFILES
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import BUILT_IN
from megatron_ipt.synthesis.spending.price import PriceConfig

_CUSTOM = "module:Class or path/to/file.py:Class"
_SAMPLING = {"temperature": 1.0, "top_p": 0.95}
_SAMPLING_OF_ANSWERS = {"temperature": 0.7, "top_p": 0.95}
"""Those of the paper (section 2), for GPT-4 and GPT-3.5."""
_SAMPLED = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
"""Of ``answers.generation``, what counts if the same model answers."""


def _engines() -> list[str]:
    return [name for name, row in ENGINES.items() if row.generates]


@dataclass
class OutlineGeneration(GenerationConfig):
    context_length: int = key(
        8192,
        "Tokens of prompt and answer together; at most what the model, or the server of it, is able to take.",
        minimum=128,
    )
    max_new_tokens: int = key(
        2048, "Maximum number of tokens of one answer: a list, a syllabus, a conversion, a question.", minimum=1
    )
    temperature: float | None = key(1.0, "Above 0 samples; with 0, all lists of a discipline are the same.", minimum=0)
    top_p: float | None = key(
        0.95, "Sample from the likeliest tokens that together reach this probability; 1 keeps all.",
        minimum=0.01, maximum=1,
    )  # fmt: skip
    repeat_check_tokens: int | None = key(
        None,
        "Stop an answer that says the same line again and again; it is checked whenever this many tokens were "
        "generated. 0 never checks. By default every 32 tokens with transformers, and never with other engines.",
        minimum=0,
    )
    window: int | None = key(
        None, "Requests in flight. Null: as many as keep the engine busy.", minimum=1, affects_output=False
    )
    max_refused_share: float = key(
        0.01,
        "Stop when the engine refuses more than this fraction of the requests, and more than one; 0 allows none.",
        minimum=0,
        maximum=1,
        affects_output=False,
    )


@dataclass
class AnswerGeneration(OutlineGeneration):
    model: str = key("", "Folder or name of the model that answers; by default, the one that asks.")
    max_new_tokens: int = key(1024, "Maximum number of tokens of one answer.", minimum=1)
    temperature: float | None = key(0.7, "0 always takes the likeliest token; above 0 samples.", minimum=0)


@dataclass
class AnswersConfig:
    """The model that answers the questions."""

    engine: str = key("", f"{', '.join(_engines())}, or {_CUSTOM}. By default, that of the questions and its model.")
    generation: AnswerGeneration = key(AnswerGeneration, "Model, limits and sampling of the answers.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    transformers: TransformersConfig = key(TransformersConfig, "Settings of the engine transformers.")
    options: dict[str, Any] = key({}, "Settings of a custom engine.")
    price: PriceConfig = key(PriceConfig, "What the provider of the answers bills for tokens.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.engine:
            yield from _engine_problems(self)
            return
        own = AnswersConfig()
        for name in ("tensorrt_llm", "openai", "transformers", "options", "price"):
            if getattr(self, name) != getattr(own, name):
                yield name, "is for a second model; without answers.engine, set the key of taxonomy"
        for setting in fields(self.generation):
            changed = getattr(self.generation, setting.name) != getattr(own.generation, setting.name)
            if changed and setting.name not in _SAMPLED:
                yield f"generation.{setting.name}", "is for a second model, which answers.engine would name"


@dataclass
class TaxonomyConfig:
    file: str = key(
        "",
        f"Fields, sub-fields and disciplines to make pairs for, as YAML; {BUILT_IN}: 133 disciplines in eight fields. "
        "A recipe with a taxonomy needs no corpus.",
    )
    prompts: str | None = key(
        None, "Your own prompts, as YAML (docs/glan.md); what the file leaves out is asked as by default."
    )
    lists_per_discipline: int = key(
        10, "Lists of subjects that are asked for; subjects with the same name and level are merged.", minimum=1
    )
    max_subjects: int | None = key(None, "Maximum number of subjects of a discipline; null: all.", minimum=1)
    tries: int = key(
        3, "How often a conversion to JSON is tried; the first time greedily, so once with temperature 0.", minimum=1
    )
    questions_per_subject: int = key(
        500, "Questions of each subject, times the weight of its discipline; fewer if its syllabus is short.", minimum=1
    )
    two_sessions_share: float = key(
        0.5, "Fraction of the questions that join concepts of two sessions.", minimum=0, maximum=1
    )
    near_duplicates: float | None = key(
        0.8,
        "Questions of a subject that share this fraction of their word shingles with an earlier one are left out, "
        "before they are answered. Null: only equal ones.",
        minimum=0.1,
        maximum=1,
    )
    pairs_per_document: int = key(
        5, "Pairs of a subject that become one document in pre-training; tuning learns every pair alone.", minimum=1
    )
    valid_share: float = key(
        0.01, "Fraction of the subjects held out for validation, by hash of their path.", minimum=0, maximum=1
    )
    test_share: float = key(0.0, "Fraction of the subjects held out for a final test.", minimum=0, maximum=1)
    engine: str = key("openai", f"{', '.join(_engines())}, or {_CUSTOM}: what asks, and answers by default.")
    generation: OutlineGeneration = key(OutlineGeneration, "Model, limits and sampling of outlines and questions.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    transformers: TransformersConfig = key(TransformersConfig, "Settings of the engine transformers.")
    options: dict[str, Any] = key({}, "Settings of a custom engine.")
    price: PriceConfig = key(PriceConfig, "What a provider bills for tokens.")
    answers: AnswersConfig = key(AnswersConfig, "The model that answers the questions, and how it samples.")
    licence: str = key(
        "",
        "Licence of what the model or models write, e.g. Apache-2.0: recorded in the manifest when the stage is made.",
        affects_output=False,
    )
    give_up_after: int | None = key(
        20,
        "Stop when this many conversions to JSON gave no subject or session. Null: only judge at the end.",
        minimum=1,
        affects_output=False,
    )
    disciplines_in_flight: int | None = key(
        None,
        "Disciplines that are worked on at the same time. Null: as many as keep the engine busy.",
        minimum=1,
        affects_output=False,
    )

    def __post_init__(self) -> None:
        self.generation.fill_in(_SAMPLING)
        self.answers.generation.fill_in(_SAMPLING_OF_ANSWERS)

    def begins(self) -> bool:
        """Whether there is a taxonomy, so that no corpus is needed."""
        return bool(self.file)

    def questions_of(self, weight: float) -> int:
        """Questions of a subject in a discipline of this weight; at least one."""
        return max(1, math.floor(self.questions_per_subject * weight + 0.5))

    def generation_of_answers(self) -> GenerationConfig:
        """Limits and sampling of the answers, whichever model gives them."""
        if self.second_model:
            return self.answers.generation
        return replace(self.generation, **{name: getattr(self.answers.generation, name) for name in _SAMPLED})

    @property
    def second_model(self) -> bool:
        """Whether answers come from another model, or from another copy of it."""
        return bool(self.answers.engine)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.file:
            return
        yield from _engine_problems(self)
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share leave nothing to train on"
        if not self.second_model:
            own, other = self.generation, self.answers.generation
            greedy_only = self.engine == "openai" and not PROFILES[self.openai.server].samples
            if greedy_only and other.temperature:
                yield (
                    "answers.generation.temperature",
                    f"{self.openai.server} ignores it and decodes greedily; set it to 0",
                )
            if own.context_length <= other.max_new_tokens:
                yield (
                    "answers.generation.max_new_tokens",
                    f"{other.max_new_tokens} leaves no room for a question in context_length {own.context_length}",
                )


def _engine_problems(section: Any) -> Iterator[tuple[str, str]]:
    known = _engines()
    if section.engine not in known and ":" not in section.engine:
        text = f"{', '.join(known)}, nor {_CUSTOM}"
        yield "engine", f"{section.engine!r} is not one of {text}.{did_you_mean(section.engine, known)}"
        return
    yield from generation_problems(section)
