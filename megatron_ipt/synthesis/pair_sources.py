"""Where pairs come from, by name: the value of ``synthesis.engine``.

Three kinds. ``documents`` makes pairs for documents by itself, ``files`` reads pairs from files, and ``model`` is an
engine of ``ENGINES`` (or a class that the recipe names) that is prompted. Code is imported only when it is used. An
extension adds a source of the first two kinds to ``SOURCES`` and an engine to
:data:`megatron_ipt.inference.engines.ENGINES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.corpus.documents import Document
from megatron_ipt.extensions import load_object
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.statistics import Statistics


@dataclass(frozen=True)
class PairSource:
    """One row.

    Attributes:
        kind: ``documents``, ``files`` or ``model``.
        code: ``module:Class`` of a :class:`PairMaker` for ``documents`` and a :class:`PairReader` for ``files``, both
            called with (SynthesisConfig, seed); of an engine for ``model``.
        help: what it is, in a few words.
        megabytes_per_second: of text on one core, for plans; not for ``model``.
    """

    kind: str
    code: str
    help: str
    megabytes_per_second: float = 20.0


SOURCES: dict[str, PairSource] = {
    "mined": PairSource(
        "documents", "megatron_ipt.synthesis.from_text.mined.source:MinedSource", "patterns over the text, no model"
    ),
    "pseudo_labels": PairSource(
        "documents",
        "megatron_ipt.synthesis.from_text.pseudo_labels.source:PseudoLabelSource",
        "rules whose labels the text supplies: summaries, its own questions, sentiment, topic; no model",
        1.5,
    ),
    "replay": PairSource(
        "files", "megatron_ipt.synthesis.from_text.replay.source:ReplaySource", "existing pairs, read from files"
    ),
}
"""Sources that need no engine."""


class PairMaker(Protocol):
    """Makes pairs for documents."""

    def chains(self, documents: Iterable[Document], rejects: Rejects, statistics: Statistics) -> Iterator[Chain]:
        """Every text of ``documents`` in exactly one chain; chains never join texts of different splits.

        Args:
            documents: of one shard, to be read once.
            rejects: takes pairs that are dropped, with the reason.
            statistics: of the shard, for what cannot be seen from the chains, which the stage counts itself.
        """
        ...


class PairReader(Protocol):
    """Reads chains with their pairs from files."""

    def files(self) -> list[Path]:
        """What it reads; every file is a shard."""
        ...

    def read(self, path: Path, rejects: Rejects) -> Iterator[Chain]:
        """Chains of one file; what cannot be used goes to ``rejects``."""
        ...


def all_sources() -> dict[str, PairSource]:
    """Every source that has a name: ``SOURCES``, then the engines that generate."""
    engines = {name: PairSource("model", row.code, row.help) for name, row in ENGINES.items() if row.generates}
    return {**SOURCES, **engines}


def source_named(name: str) -> PairSource:
    """The source called ``name``, or one of kind ``model`` for ``module:Class``."""
    return all_sources().get(name) or PairSource("model", name, "")


def load_source(name: str) -> Any:
    """The class of source ``name``, of kind ``documents`` or ``files``.

    Raises:
        RecipeError: it cannot be imported.
    """
    return load_object(source_named(name).code, "synthesis.engine")
