"""Every engine by name: where its code is and what it can do.

Code is imported only when an engine is opened, because engines do not share an environment. An extension adds a row to
``ENGINES``; a recipe may also name a class directly, as ``module:Class`` or ``path/to/file.py:Class``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import RecipeError, did_you_mean
from megatron_ipt.extensions import load_object
from megatron_ipt.inference.engine import Engine
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer


@dataclass(frozen=True)
class EngineRow:
    """One engine.

    Attributes:
        code: ``module:Class`` of a subclass of :class:`.engine.Engine`.
        help: what it is, in a few words.
        generates: it implements ``generate``.
        scores: it implements ``score``.
    """

    code: str
    help: str
    generates: bool = True
    scores: bool = False


ENGINES: dict[str, EngineRow] = {
    "tensorrt_llm": EngineRow(
        "megatron_ipt.inference.tensorrt_llm:TensorRTEngine", "TensorRT-LLM in process, on GPUs", scores=True
    ),
    "openai": EngineRow(
        "megatron_ipt.inference.openai.engine:OpenAIEngine", "servers with the OpenAI completions API", scores=True
    ),
    "transformers": EngineRow(
        "megatron_ipt.inference.transformers.engine:TransformersEngine",
        "transformers in process, CPU or one GPU",
        scores=True,
    ),
    "megatron": EngineRow(
        "megatron_ipt.training.scoring.engine:MegatronEngine",
        "a Megatron checkpoint, any parallel layout",
        generates=False,
        scores=True,
    ),
}
"""Value of a key ``engine``."""


def gpus_of(section: Any) -> int:
    """GPUs that the engine of a recipe section needs in one process by default.

    Args:
        section: with ``engine`` and the settings of each engine.
    """
    if section.engine == "megatron":
        return int(section.megatron.ranks())
    if section.engine == "openai":
        return 0
    if section.engine == "transformers":
        return 0 if section.transformers.device == "cpu" else 1
    return int(section.tensorrt_llm.tensor_parallel_size)


def check_scores(settings: EngineSettings) -> None:
    """Finds errors of an engine that is to score, before there is anything to score.

    Raises:
        RecipeError: its code cannot be used, or it does not score.
    """
    if not load_engine(settings.engine, settings.key("engine")).scores():
        raise RecipeError(f"{settings.key('engine')}: the engine {settings.engine} does not score")
    if settings.chats:
        raise RecipeError(
            f"{settings.key('openai.server')}: a server of chats does not score texts; use vllm or openai-compatible"
        )


def load_engine(name: str, key: str = "engine") -> type[Engine]:
    """The class of engine ``name``.

    Args:
        name: of a row in ``ENGINES``, ``module:Class`` or ``path/to/file.py:Class``.
        key: the recipe key that holds it, for errors.

    Raises:
        RecipeError: there is no such engine, its code cannot be imported, or it is no engine.
    """
    if name not in ENGINES and ":" not in name:
        known = f"{', '.join(ENGINES)}, nor module:Class or path/to/file.py:Class"
        raise RecipeError(f"{key}: {name!r} is not one of {known}.{did_you_mean(name, ENGINES)}")
    engine = load_object(ENGINES[name].code if name in ENGINES else name, key)
    if not (isinstance(engine, type) and issubclass(engine, Engine)):
        raise RecipeError(f"{key}: {name} is not a subclass of {Engine.__module__}.Engine")
    return engine


def open_engine(settings: EngineSettings, tokenizer: PromptTokenizer | None = None) -> Engine:
    """The engine of ``settings``, ready to be entered with ``async with``.

    Args:
        settings: which engine, and how it is set up.
        tokenizer: that made the ids of the requests; by default that of ``generation.tokenizer``, or of the model.

    Raises:
        RecipeError: there is no such engine, or what it needs is not installed.
        InputError: there is no tokenizer where the settings say.
    """
    engine = load_engine(settings.engine, settings.key("engine"))
    return engine(settings, tokenizer or settings.open_tokenizer())
