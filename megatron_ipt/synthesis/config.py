"""Recipe section ``synthesis``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import did_you_mean
from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig, TensorRTConfig, TransformersConfig
from megatron_ipt.inference.profiles import PROFILES
from megatron_ipt.synthesis.from_text.mined.config import MinedConfig
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig
from megatron_ipt.synthesis.from_text.replay.config import ReplayConfig
from megatron_ipt.synthesis.pair_sources import SOURCES, source_named


@dataclass
class SynthesisConfig:
    engine: str = key(
        "mined",
        "Where pairs come from. " + "; ".join(f"{name}: {source.help}" for name, source in SOURCES.items()) + ". "
        "module:Class or path/to/file.py:Class: an engine of your own.",
    )  # fmt: skip
    chain_length: int = key(
        1, "Texts (with their pairs) that make one pre-training document: M of an M-shot example.", minimum=1
    )
    passage_characters: int = key(
        2400,
        "Longer documents are divided into texts of at most this length, at paragraph or sentence ends. Engines with a "
        "model divide further what exceeds their context in tokens.",
        minimum=200,
    )
    filters: FilterConfig = key(FilterConfig, "Which generated pairs are kept.")
    generation: GenerationConfig = key(GenerationConfig, "What all engines with a model share.")
    tensorrt_llm: TensorRTConfig = key(TensorRTConfig, "Settings of the engine tensorrt_llm.")
    openai: OpenAIConfig = key(OpenAIConfig, "Settings of the engine openai.")
    transformers: TransformersConfig = key(TransformersConfig, "Settings of the engine transformers.")
    mined: MinedConfig = key(MinedConfig, "Settings of the engine mined.")
    replay: ReplayConfig = key(ReplayConfig, "Settings of the engine replay.")
    options: dict[str, Any] = key({}, "Settings of an engine of your own, which reads them from config.options.")
    workers: int = key(1, "Processes that work on shards, for mined and replay.", minimum=1, affects_output=False)

    def begins(self) -> bool:
        """Whether pairs come from files, so that no corpus is needed."""
        return self.engine == "replay" and bool(self.replay.inputs)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.engine not in SOURCES and ":" not in self.engine:
            known = f"{', '.join(SOURCES)}, nor module:Class or path/to/file.py:Class"
            yield "engine", f"{self.engine!r} is not one of {known}.{did_you_mean(self.engine, SOURCES)}"
            return
        if source_named(self.engine).kind == "model" and not self.generation.model:
            yield (
                "generation.model",
                f"required by the engine {self.engine}: folder or name of the instruction synthesizer",
            )
        if self.engine == "replay" and not self.replay.inputs:
            yield "replay.inputs", "required by the engine replay: files with pairs"
        if self.engine == "openai" and self.generation.temperature > 0 and not PROFILES[self.openai.server].samples:
            yield "generation.temperature", f"{self.openai.server} ignores it and decodes greedily; set it to 0"
