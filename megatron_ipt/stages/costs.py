"""What a recipe costs before it runs: the terms in which the cost models of stages and ``plan`` talk to each other.

A cost model is a function in the room of its stage, named by ``Stage.cost`` and called with (section,
:class:`Planning`). It returns an :class:`Estimate`: time and storage of the stage, and the size of what it makes. Sizes
are passed from stage to stage by kind, exactly as folders are when the recipe runs, so that custom stages fit in.

========================= ======================
kind                      size
========================= ======================
``DOCUMENTS``             :class:`Documents`
``CHAINS``, ``AUGMENTED`` :class:`PairedTexts`
``TOKENS``                :class:`TokenData`
``CHECKPOINTS``, ``MODEL`` :class:`Weights`
========================= ======================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.files import is_remote

CHARACTERS_PER_TOKEN = 4.4
"""English web text with a vocabulary of 32,000 (an assumption)."""
BYTES_PER_COMPRESSED = {"none": 1.0, "gz": 0.40, "zst": 0.38}
"""Size of compressed JSON Lines of English text relative to uncompressed ones (an assumption)."""


@dataclass(frozen=True)
class Machine:
    """What the recipe is planned for.

    Attributes:
        gpus: in total.
        gpu: type, a key of :data:`megatron_ipt.models.hardware.GPUS`.
        gpus_per_node: of one node.
        cores: for data stages.
    """

    gpus: int
    gpu: str = "h100"
    gpus_per_node: int = 8
    cores: int = 64


@dataclass(frozen=True)
class Assumptions:
    """What cost models assume about data that does not exist yet; each can be set on the command line.

    The defaults are the paper's (arXiv:2406.14491): texts of 500 tokens (200M texts, 100B tokens), five pairs per text,
    52 tokens per pair.
    """

    documents: float | None = None
    tokens_per_document: float = 500.0
    pairs_per_text: float = 5.0
    tokens_per_pair: float = 52.0
    vocab_size: int | None = None


@dataclass(frozen=True)
class Documents:
    """Size of a corpus.

    Attributes:
        documents: number of documents.
        tokens_per_document: mean length, in tokens.
        paired_share: share of the documents that get pairs.
    """

    documents: float
    tokens_per_document: float
    paired_share: float = 1.0

    @property
    def tokens(self) -> float:
        return self.documents * self.tokens_per_document

    @property
    def paired_tokens(self) -> float:
        """Tokens of the documents that get pairs."""
        return self.documents * self.paired_share * self.tokens_per_document


@dataclass(frozen=True)
class PairedTexts:
    """Size of texts with instruction–response pairs.

    Attributes:
        texts: number of texts.
        tokens_per_text: mean length without pairs, in tokens.
        pairs: number of pairs.
        tokens_per_pair: mean length, in tokens.
    """

    texts: float
    tokens_per_text: float
    pairs: float
    tokens_per_pair: float

    @property
    def text_tokens(self) -> float:
        return self.texts * self.tokens_per_text

    @property
    def pair_tokens(self) -> float:
        return self.pairs * self.tokens_per_pair

    @property
    def tokens(self) -> float:
        return self.text_tokens + self.pair_tokens


@dataclass(frozen=True)
class TokenData:
    """Size of indexed datasets.

    Attributes:
        tokens: of one pass over the training data.
        vocab_size: of their tokenizer.
    """

    tokens: float
    vocab_size: int


@dataclass(frozen=True)
class Weights:
    """Size of a model: its number of parameters."""

    parameters: int


@dataclass(frozen=True)
class Demand:
    """What a stage needs of a kind that it reads, according to its own section (see ``Stage.demand``).

    Attributes:
        tokens: that it reads in one pass; None if its section does not say.
        source: where ``tokens`` comes from, for people.
        keys: recipe keys that would set ``tokens``, for messages.
        vocab_size: that the data must have; None for any.
    """

    tokens: float | None
    source: str
    keys: str
    vocab_size: int | None = None


@dataclass(frozen=True)
class Beginning:
    """Size assumed for data that is not here yet.

    Attributes:
        documents: number of documents.
        source: where the number comes from, for people.
    """

    documents: float
    source: str


class UnknownSize(UserError):
    """The size of the data a flow begins with cannot be determined."""


@dataclass(frozen=True)
class Planning:
    """Everything a cost model is told besides its section.

    Attributes:
        machine: to plan for.
        assumptions: about data that does not exist yet.
        inputs: sizes of what the stage reads, by kind.
        counts: of the stage if it is complete, else empty.
        demands: of later stages, by kind.
        beginning: size of data that is not here; None while nothing is known about it.
        compression: of JSON Lines shards.
    """

    machine: Machine
    assumptions: Assumptions
    inputs: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    demands: Mapping[str, Demand] = field(default_factory=dict)
    beginning: Beginning | None = None
    compression: str = "zst"

    def begin(self, problem: str) -> Beginning:
        """The size to assume for data that is not here.

        Args:
            problem: why the size is unknown, for the message.

        Raises:
            UnknownSize: nothing is known about it.
        """
        if self.assumptions.documents is not None:
            return Beginning(float(self.assumptions.documents), "documents as given")
        if self.beginning is None:
            raise UnknownSize(problem)
        return self.beginning

    def shard_gb(self, tokens: float) -> float:
        """Size of ``tokens`` tokens of text in JSON Lines shards, in GB."""
        return tokens * (CHARACTERS_PER_TOKEN * BYTES_PER_COMPRESSED[self.compression] / 1e9)


@dataclass(frozen=True)
class StageCost:
    """Time of a stage, or of a part of it.

    Attributes:
        stage: whose time it is.
        resource: ``gpu`` or ``cpu``.
        workers: GPUs or cores that work at a time.
        hours: of wall-clock time; None if unknown.
        gpu_hours: 0 for CPU stages.
        basis: what the time is based on, for people.
    """

    stage: str
    resource: str
    workers: int
    hours: float | None
    gpu_hours: float
    basis: str

    @classmethod
    def on_cores(cls, stage: str, tokens: float, cores: int, rate: float) -> StageCost:
        """Time to work through ``tokens`` tokens of text at ``rate`` MB per second and core."""
        megabytes = tokens * CHARACTERS_PER_TOKEN / 1e6
        return cls(stage, "cpu", cores, megabytes / rate / cores / 3600, 0.0, f"{rate:g} MB/s per core")

    @classmethod
    def unknown(cls, stage: str, reason: str) -> StageCost:
        return cls(stage, "", 0, None, 0.0, reason)


@dataclass(frozen=True)
class Estimate:
    """What a cost model returns.

    Attributes:
        costs: rows of the table; none for a stage whose time is negligible.
        makes: sizes of what the stage makes, by kind.
        storage_gb: what it writes by name, in GB (1e9 bytes).
        data: the size of its data in a few words.
        lines: further (label, text) for people; the text may have several lines.
        facts: the same for programs; groups of the same name from several stages are merged.
        notes: what the reader must know.
    """

    costs: tuple[StageCost, ...] = ()
    makes: Mapping[str, Any] = field(default_factory=dict)
    storage_gb: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    lines: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def negligible(section: Any, planning: Planning) -> Estimate:
    """Cost model of a stage that takes seconds whatever the size of the data."""
    return Estimate()


def bytes_of_text(files: Callable[[], Iterable[str | Path]]) -> float | None:
    """Uncompressed bytes of input files; None if they are remote or not here.

    Args:
        files: lists them.
    """
    try:
        paths = [str(path) for path in files()]
        if any(map(is_remote, paths)):
            return None
        return sum(
            Path(path).stat().st_size / (BYTES_PER_COMPRESSED["zst"] if path.endswith((".zst", ".gz")) else 1.0)
            for path in paths
        )
    except (UserError, OSError):
        return None
