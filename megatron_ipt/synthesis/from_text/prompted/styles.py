"""Prompt styles by name: the value of ``synthesis.prompt``.

An extension adds a row to ``STYLES``; a recipe may also name a class, as ``module:Class`` or
``path/to/file.py:Class``.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.errors import RecipeError
from megatron_ipt.extensions import load_object
from megatron_ipt.synthesis.from_text.prompted.style import PromptStyle


@dataclass(frozen=True)
class StyleRow:
    """One style: ``code`` is ``module:Class`` of a subclass of :class:`.style.PromptStyle`."""

    code: str
    help: str


STYLES: dict[str, StyleRow] = {
    "synthesizer": StyleRow(
        "megatron_ipt.synthesis.from_text.prompted.prompt:PromptFormat",
        "the format of the released instruction synthesizer, and of every model tuned with kind: synthesizer",
    ),
}
"""Value of ``synthesis.prompt``."""


def style_code(name: str) -> str:
    """``module:Class`` of the style called ``name``, or ``name`` itself."""
    return STYLES[name].code if name in STYLES else name


def load_style(name: str, key: str = "synthesis.prompt") -> type[PromptStyle]:
    """The class of prompt style ``name``.

    Args:
        name: of a row in ``STYLES``, ``module:Class`` or ``path/to/file.py:Class``.
        key: the recipe key that holds it, for errors.

    Raises:
        RecipeError: its code cannot be imported, or it is no prompt style.
    """
    style = load_object(style_code(name), key)
    if not (isinstance(style, type) and issubclass(style, PromptStyle)):
        raise RecipeError(f"{key}: {name} is not a subclass of {PromptStyle.__module__}.PromptStyle")
    return style
