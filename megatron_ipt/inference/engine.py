"""The interface of an engine that generates.

An engine is an asynchronous context: entering it loads a model or finds its servers, ``generate`` may then be awaited
by any number of tasks at once, and it is up to the engine to batch them. It is given ids, decodes to ids, and knows
nothing of texts, pairs or shards.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.synthesis.from_text.prompted.prompt import Prompt

if TYPE_CHECKING:
    from megatron_ipt.inference.tokenizer import PromptTokenizer
    from megatron_ipt.synthesis.config import SynthesisConfig


@dataclass(frozen=True)
class Request:
    """One text to make pairs for.

    Attributes:
        prompt: ids and text.
        chain: number of its chain in this process; requests of one chain should meet the same cache.
        seed: for sampling, determined by the text's id; below 2**31.
    """

    prompt: Prompt
    chain: int
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """What was generated.

    Attributes:
        ids: without EOS.
        text: of ``ids``, without control tokens.
        finished: False when the token limit ended it.
        prompt_tokens: as the engine counted them.
    """

    ids: list[int]
    text: str
    finished: bool
    prompt_tokens: int


class EngineError(StageError):
    """The engine cannot go on; what is journalled is kept and a rerun continues."""


class RequestRefused(Exception):
    """The engine will not answer this one request; others may be fine."""


class Engine(ABC):
    """Generates pairs' text.

    Args:
        config: section ``synthesis`` of the recipe.
        tokenizer: that made the ids.

    Attributes:
        window: chains in flight that keep the engine full, when the recipe does not say.
    """

    window = 64

    def __init__(self, config: SynthesisConfig, tokenizer: PromptTokenizer):
        self.config = config
        self.tokenizer = tokenizer

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    @abstractmethod
    async def generate(self, request: Request) -> Completion:
        """Continues the prompt until EOS or ``max_new_tokens``.

        Raises:
            RequestRefused: only this request cannot be answered.
            EngineError: nothing more can be.
        """

    def release(self, chain: int) -> None:  # noqa: B027
        """No further request of ``chain`` will come; most engines need not know."""

    def figures(self) -> dict[str, float]:
        """Further figures for the metrics file, e.g. retries so far."""
        return {}

    def completion(self, ids: list[int], finished: bool, prompt_tokens: int, text: str | None = None) -> Completion:
        """A completion of generated ``ids``, which may end in EOS; ``text`` where the engine decoded them."""
        eos_id = self.tokenizer.eos_id
        if eos_id in ids:
            ids = ids[: ids.index(eos_id)]
            finished = True
        return Completion(ids, self.tokenizer.decode(ids) if text is None else text, finished, prompt_tokens)


def load_library(module: str, engine: str, install: str) -> Any:
    """Imports a module that only ``engine`` needs.

    Raises:
        RecipeError: it is not installed or cannot be loaded; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise RecipeError(
            f"synthesis.engine: {engine} needs the package {module.split('.')[0]}, which cannot be imported: {error}. "
            f"Install it with: {install}"
        ) from error
