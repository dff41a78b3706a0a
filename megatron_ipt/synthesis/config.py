"""Recipe section ``synthesis``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
from megatron_ipt.synthesis.from_text.mined.config import MinedConfig
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig
from megatron_ipt.synthesis.from_text.prompted.styles import (
    STYLES,
    makes_chats,
    recommended_by_all,
    shares_of,
    style_file,
)
from megatron_ipt.synthesis.from_text.pseudo_labels.config import PseudoLabelsConfig
from megatron_ipt.synthesis.from_text.replay.config import ReplayConfig
from megatron_ipt.synthesis.pair_sources import all_sources, source_named
from megatron_ipt.synthesis.spending.price import PriceConfig

_CUSTOM = "module:Class or path/to/file.py:Class"


@dataclass
class SynthesisConfig:
    engine: str = key(
        "mined",
        "Where pairs come from. " + "; ".join(f"{name}: {row.help}" for name, row in all_sources().items()) + ". "
        f"{_CUSTOM}: a custom engine.",
    )  # fmt: skip
    prompt: Any = key(
        "synthesizer",
        "How engines with a model are prompted and their answers parsed. "
        + "; ".join(f"{name}: {row.help}" for name, row in STYLES.items())
        + ". file.yaml: your own tasks for chat models, "
        f"with weights (docs/synthesis.md). {_CUSTOM}: a custom style. Several, mixed by share: "
        "{synthesizer: 0.5, chat: 0.3, my_tasks.yaml: 0.2}.",
        either=(str, dict[str, float]),
    )  # fmt: skip
    chain_length: int = key(
        1, "Texts (with their pairs) that make one pre-training document: M of an M-shot example.", minimum=1
    )
    passage_characters: int = key(
        2400,
        "Longer documents are divided into texts of at most this length, at paragraph or sentence ends. For engines "
        "with a model, texts that exceed the context in tokens are divided further.",
        minimum=200,
    )
    filters: FilterConfig = key(FilterConfig, "Which generated pairs are kept.")
    generation: GenerationConfig = key(GenerationConfig, "Settings shared by all engines with a model.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    transformers: TransformersConfig = key(TransformersConfig, "Settings of the engine transformers.")
    price: PriceConfig = key(PriceConfig, "What a provider bills for tokens, for engines with a model.")
    mined: MinedConfig = key(MinedConfig, "Settings of the engine mined.")
    pseudo_labels: PseudoLabelsConfig = key(PseudoLabelsConfig, "Settings of the engine pseudo_labels.")
    replay: ReplayConfig = key(ReplayConfig, "Settings of the engine replay.")
    options: dict[str, Any] = key({}, "Settings of a custom engine, which reads them from self.settings.options.")
    give_up_after: int | None = key(
        50,
        "For engines with a model: stop when the first answers, this many, gave no pair; after 20 if nothing in them "
        "even looked like one. Null: only judge at the end.",
        minimum=1,
        affects_output=False,
    )
    workers: int = key(
        1, "Processes that work on shards in parallel, for engines without a model.", minimum=1, affects_output=False
    )

    def __post_init__(self) -> None:
        # Not typed by OmegaConf, which has no unions with mappings.
        if isinstance(self.prompt, dict):
            self.prompt = {str(name): float(share) for name, share in self.prompt.items()}
        else:
            self.prompt = str(self.prompt)
        # What the styles recommend for all texts is part of the settings, as if the recipe had said it.
        self.generation.fill_in(recommended_by_all(self.prompt))

    def begins(self) -> bool:
        """Whether pairs come from files, so that no corpus is needed."""
        return self.engine == "replay" and bool(self.replay.inputs)

    def problems(self) -> Iterator[tuple[str, str]]:
        sources = all_sources()
        if self.engine not in sources and ":" not in self.engine:
            known = f"{', '.join(sources)}, nor {_CUSTOM}"
            yield "engine", f"{self.engine!r} is not one of {known}.{did_you_mean(self.engine, sources)}"
            return
        wrong = list(self._prompt_problems())
        if wrong:
            yield from wrong
            return
        if source_named(self.engine).kind == "model":
            yield from generation_problems(self)
        if self.engine == "replay" and not self.replay.inputs:
            yield "replay.inputs", "required by the engine replay: files with pairs"
        if self.engine == "openai" and self.openai.chats:
            able = ", ".join(name for name, row in STYLES.items() if row.chats)
            for name in shares_of(self.prompt):
                if not makes_chats(name):
                    yield (
                        "prompt",
                        f"{name} continues a raw prompt, and openai.server {self.openai.server} only answers chats; "
                        f"set prompt to {able} or to a file of tasks, or openai.server to a kind that takes token ids",
                    )

    def _prompt_problems(self) -> Iterator[tuple[str, str]]:
        shares = self.prompt if isinstance(self.prompt, dict) else {self.prompt: 1.0}
        mixed = isinstance(self.prompt, dict)
        for name, share in shares.items():
            if name not in STYLES and ":" not in name and not style_file(name):
                known = f"{', '.join(STYLES)}, nor file.yaml, {_CUSTOM}"
                yield "prompt", f"{name!r} is not one of {known}.{did_you_mean(name, STYLES)}"
            if mixed and not 0 <= share < math.inf:
                yield "prompt", f"the share of {name} is {share:g}; expected a number of at least 0"
        if not shares_of(self.prompt):
            yield "prompt", "no style has a share above 0; give at least one, e.g. {synthesizer: 0.5, chat: 0.5}"
