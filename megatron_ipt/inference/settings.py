"""What an engine is built from, whichever stage needs it.

A recipe section that runs a model (``synthesis``, and every later stage that generates or scores) has the keys
``engine``, ``generation`` and ``options`` and one section per engine. :meth:`EngineSettings.of` picks from it what one
engine needs, together with the path of the section, so that an engine's errors name the key to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.tokenizer import ByteTokenizer, PromptTokenizer, open_prompt_tokenizer


class EngineSection(Protocol):
    """A recipe section that names an engine.

    Attributes:
        engine: name in ``ENGINES``, ``module:Class`` or ``path/to/file.py:Class``.
        generation: what all engines share.
        options: settings of a custom engine.
    """

    engine: str
    options: dict[str, Any]

    # Read-only, so that a section may have its own defaults in a subclass.
    @property
    def generation(self) -> GenerationConfig: ...


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one engine.

    Attributes:
        engine: its name, as in :class:`EngineSection`.
        generation: model, tokenizer, context length and default sampling.
        own: the engine's own section, e.g. :class:`.config.OpenAIConfig`; None for an engine that has none.
        options: settings of a custom engine.
        prefix: path of the section in the recipe, for errors: ``synthesis`` makes ``synthesis.generation.model``.
        scoring: the engine will be asked for scores, not for text. TensorRT-LLM has to know this when it loads.
    """

    engine: str
    generation: GenerationConfig
    own: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    scoring: bool = False

    @classmethod
    def of(cls, section: EngineSection, prefix: str, scoring: bool = False) -> EngineSettings:
        """Settings of the engine that ``section`` names; its own section is the key of the same name, if any."""
        own = getattr(section, section.engine, None)
        return cls(section.engine, section.generation, own, section.options, prefix, scoring)

    def key(self, name: str) -> str:
        """The full path of a key of the section: ``openai.server`` -> ``synthesis.openai.server``."""
        return f"{self.prefix}.{name}" if self.prefix else name

    @property
    def chats(self) -> bool:
        """Whether requests are chats, to which the engine applies the chat template: they need no tokenizer here."""
        return bool(getattr(self.own, "chats", False))

    @property
    def tokenizer(self) -> str:
        """Folder or file of the model's tokenizer; empty where tokens are estimated."""
        return self.generation.tokenizer or ("" if self.chats else self.generation.model)

    def open_tokenizer(self) -> PromptTokenizer:
        """Reads the tokenizer; chats without one get an estimate.

        Raises:
            InputError: there is none where the settings say.
        """
        if not self.tokenizer:
            return ByteTokenizer()
        return open_prompt_tokenizer(self.tokenizer, self.key("generation.tokenizer"))
