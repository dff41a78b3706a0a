"""Instruction Pre-Training on Megatron-Core: from a raw corpus to a Hugging Face model.

``import megatron_ipt as mi`` gives the Python API of :mod:`megatron_ipt.api`, which is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_ipt.api import (
        Recipe,
        Run,
        UserError,
        build_recipe,
        load_model,
        load_recipe,
        load_tokenizer,
        make_pairs,
        open_dataset,
        read_documents,
        render,
        run,
        status,
        train_tokenizer,
        write_dataset,
    )

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "Run",
    "UserError",
    "build_recipe",
    "load_model",
    "load_recipe",
    "load_tokenizer",
    "make_pairs",
    "open_dataset",
    "read_documents",
    "render",
    "run",
    "status",
    "train_tokenizer",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from megatron_ipt import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
