"""Prompt styles by name: the value of ``synthesis.prompt``.

An extension adds a row to ``STYLES``; a recipe may also name a class, as ``module:Class`` or
``path/to/file.py:Class``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ipt.errors import RecipeError
from megatron_ipt.extensions import load_object
from megatron_ipt.synthesis.from_text.prompted.style import PromptStyle

GREEDY: Mapping[str, float] = {"temperature": 0.0, "top_p": 1.0}


@dataclass(frozen=True)
class StyleRow:
    """One style.

    Attributes:
        code: ``module:Class`` of a subclass of :class:`.style.PromptStyle`.
        help: what it is, in a few words.
        sampling: what it recommends where the recipe does not set a key. Empty for a style that decides by task.
        chats: its prompts are chats as well, for engines that apply the chat template themselves.
    """

    code: str
    help: str
    sampling: Mapping[str, float] = field(default_factory=lambda: GREEDY)
    chats: bool = False


STYLES: dict[str, StyleRow] = {
    "synthesizer": StyleRow(
        "megatron_ipt.synthesis.from_text.prompted.prompt:PromptFormat",
        "the format of the released instruction synthesizer, and of every model tuned with kind: synthesizer",
    ),
    "chat": StyleRow(
        "megatron_ipt.synthesis.from_text.prompted.chat.style:ChatStyle",
        "instructions for any chat model, in its own chat template: questions, multiple choice, reasoning, summaries "
        "and rephrasings, one task per text",
        sampling={},
        chats=True,
    ),
}
"""Value of ``synthesis.prompt``."""

FILE_OF = "chat"
"""The style that reads a user's YAML file."""


def shares_of(prompt: str | Mapping[str, float]) -> dict[str, float]:
    """Names and shares of the styles in a value of ``synthesis.prompt``, without those whose share is 0."""
    if isinstance(prompt, str):
        return {prompt: 1.0}
    return {name: share for name, share in prompt.items() if share > 0}


def described(prompt: str | Mapping[str, float]) -> str:
    """A value of ``synthesis.prompt`` for messages: ``chat``, or ``{synthesizer: 0.5, chat: 0.5}``."""
    if isinstance(prompt, str):
        return prompt
    return "{" + ", ".join(f"{name}: {share:g}" for name, share in prompt.items()) + "}"


def style_file(name: str) -> Path | None:
    """The YAML file of prompts that ``name`` is, if it is one."""
    return Path(name).expanduser() if name.endswith((".yaml", ".yml")) else None


def _row(name: str) -> StyleRow | None:
    """The row of style ``name``; None for a custom one."""
    return STYLES.get(FILE_OF if style_file(name) else name)


def style_code(name: str) -> str:
    """``module:Class`` of the style called ``name``, or ``name`` itself."""
    row = _row(name)
    return row.code if row else name


def recommended(name: str) -> Mapping[str, float]:
    """Settings of ``generation`` that style ``name`` recommends for every text; greedy for a custom one."""
    row = _row(name)
    return row.sampling if row else GREEDY


def makes_chats(name: str) -> bool:
    """Whether style ``name`` makes chats; a custom one may."""
    row = _row(name)
    return row is None or row.chats


def recommended_by_all(prompt: str | Mapping[str, float]) -> dict[str, float]:
    """What all styles of a value of ``synthesis.prompt`` recommend alike."""
    each = [recommended(name).items() for name in shares_of(prompt)]
    return dict(set.intersection(*map(set, each))) if each else {}


def load_style(name: str, key: str = "synthesis.prompt") -> type[PromptStyle]:
    """The class of prompt style ``name``.

    Args:
        name: of a row in ``STYLES``, a YAML file, ``module:Class`` or ``path/to/file.py:Class``.
        key: the recipe key that holds it, for errors.

    Raises:
        RecipeError: its code cannot be imported, or it is no prompt style.
    """
    style = load_object(style_code(name), key)
    if not (isinstance(style, type) and issubclass(style, PromptStyle)):
        raise RecipeError(f"{key}: {name} is not a subclass of {PromptStyle.__module__}.PromptStyle")
    return style
