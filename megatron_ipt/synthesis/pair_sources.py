"""Where pairs come from, by name: one table, imported only when used, because engines do not share an environment.

Three kinds: ``documents`` makes chains of documents by itself (no model), ``files`` reads chains from files of its own,
``model`` generates behind :class:`megatron_ipt.inference.engine.Engine`. An engine of your own is named
``module:Class`` or ``path/to/file.py:Class`` in the recipe and is of kind ``model``; an extension may enter one of any
kind in ``SOURCES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.corpus.documents import Document
from megatron_ipt.extensions import load_object
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.pairs import Chain


@dataclass(frozen=True)
class Source:
    """One row: ``kind`` and ``module:class``.

    The class is called with (SynthesisConfig, seed) for ``documents`` and ``files``, with (SynthesisConfig,
    PromptTokenizer) for ``model``.
    """

    kind: str
    code: str
    help: str


SOURCES: dict[str, Source] = {
    "mined": Source(
        "documents", "megatron_ipt.synthesis.from_text.mined.source:MinedSource", "patterns over the text, no model"
    ),
    "replay": Source(
        "files", "megatron_ipt.synthesis.from_text.replay.source:ReplaySource", "pairs that exist, read from files"
    ),
    "tensorrt_llm": Source(
        "model", "megatron_ipt.inference.tensorrt_llm:TensorRTEngine", "TensorRT-LLM in process, on GPUs"
    ),
    "openai": Source("model", "megatron_ipt.inference.openai:OpenAIEngine", "servers with the OpenAI completions API"),
    "transformers": Source(
        "model",
        "megatron_ipt.inference.transformers:TransformersEngine",
        "transformers in process, CPU or one GPU",
    ),
}
"""Value of ``synthesis.engine``."""


class PairSource(Protocol):
    """Makes pairs for documents."""

    def chains(self, documents: Iterable[Document]) -> Iterator[Chain]:
        """Every text of ``documents`` in exactly one chain; chains never join texts of different splits."""
        ...


class FileSource(Protocol):
    """Reads chains with their pairs from files."""

    def files(self) -> list[Path]:
        """What it reads; every file is a shard."""
        ...

    def read(self, path: Path, rejects: Rejects) -> Iterator[Chain]:
        """Chains of one file; what cannot be used goes to ``rejects``."""
        ...


def source_named(name: str) -> Source:
    """The row of ``SOURCES`` called ``name``, or one for ``module:Class``."""
    return SOURCES[name] if name in SOURCES else Source("model", name, "")


def load_class(name: str) -> Any:
    """The class of engine ``name``.

    Raises:
        RecipeError: it cannot be imported.
    """
    return load_object(source_named(name).code, "synthesis.engine")
