"""The folder of the stage: what each step leaves for each shard of the corpus, and all of it as one set of numbers.

========================== ==========================================================================================
``paragraphs/NAME.*``      text (UTF-8 bytes) and token ids of each paragraph as Megatron indexed datasets; an array
                           with document, hash of the text and tokens; ids of the documents
``vectors/NAME.npy``       float32 [paragraphs, dimension]
``neighbours/NAME.npy``    query, neighbours and nearness
``contexts/NAME.npy``      paragraphs of every context, real and for comparison
``alone/``, ``scores/``    losses of paragraphs alone, and of contexts
========================== ==========================================================================================

A paragraph's number is its place over all shards. Each array has a marker beside it that says of which encoder and
which paragraphs it is; what does not match is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import atomic_open, read_json
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.selection.rows import CorpusShard
from megatron_ipt.tokens.dataset.indexed import IndexedReader

PARAGRAPH = np.dtype([("document", "<i4"), ("text", "<u8"), ("tokens", "<i4")])
"""``document`` is a place in the list of ids beside the array, ``text`` a hash."""
PARAGRAPHS, VECTORS, NEIGHBOURS, CONTEXTS, ALONE, SCORES = (
    "paragraphs", "vectors", "neighbours", "contexts", "alone", "scores",
)  # fmt: skip
STEPS = (VECTORS, NEIGHBOURS, ALONE, SCORES)
"""In order; ``paragraphs`` are made with their vectors, ``contexts`` when all neighbours are known."""
Numbers = npt.NDArray[np.int64]


def unit(step: str, shard: CorpusShard) -> str:
    """``vectors/synthesis-00003``, the name of a part of the work."""
    return f"{step}/{shard.name}"


def array_path(directory: Path, step: str, name: str) -> Path:
    """Of what a step leaves for shard ``name``."""
    return directory / step / f"{name}.npy"


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes ``.npy`` atomically."""
    with atomic_open(path) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


def load_array(path: Path, advice: str) -> npt.NDArray[Any]:
    """Reads ``.npy``, mapped.

    Raises:
        StageError: it is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError(f"{path}: cannot be read: {error}. {advice}") from error


def digest(array: npt.NDArray[Any]) -> str:
    """What the paragraphs of a shard are recognised by."""
    return xxhash.xxh3_128(np.ascontiguousarray(array).tobytes()).hexdigest()


def _again(directory: Path, step: str, name: str) -> str:
    return f"Remove {directory / step / name}.done.json and run `megatron-ipt compose` again."


@dataclass(frozen=True)
class Shard:
    """The paragraphs of one shard of the corpus."""

    directory: Path
    name: str
    first: int
    rows: npt.NDArray[np.void]

    @cached_property
    def documents(self) -> list[str]:
        """Ids of its documents."""
        found: list[str] = read_json(self.directory / PARAGRAPHS / f"{self.name}.documents.json")
        return found

    @cached_property
    def tokens(self) -> IndexedReader:
        return IndexedReader(self.directory / PARAGRAPHS / f"{self.name}-tokens")

    @cached_property
    def texts(self) -> IndexedReader:
        return IndexedReader(self.directory / PARAGRAPHS / f"{self.name}-text")

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.rows))


class Paragraphs:
    """All paragraphs of a corpus by number.

    Args:
        directory: of the stage.
        names: of the shards, in order.

    Raises:
        StageError: a shard has no vectors yet, or files do not match their marker.
    """

    def __init__(self, directory: Path, names: list[str]):
        self.directory = directory
        self.shards: list[Shard] = []
        markers = ShardMarkers(directory)
        missing = [name for name in names if markers.counts(f"{VECTORS}/{name}") is None]
        if missing:
            raise StageError(
                f"{directory}: {len(missing)} of {len(names)} shards have no vectors yet ({missing[0]}); run "
                "`megatron-ipt compose` with --until vectors first"
            )
        first = 0
        for name in names:
            rows = load_array(array_path(directory, PARAGRAPHS, name), _again(directory, VECTORS, name))
            marker = self.marker(VECTORS, name)
            if rows.dtype != PARAGRAPH or len(rows) != marker["paragraphs"] or digest(rows["text"]) != marker["texts"]:
                raise StageError(
                    f"{array_path(directory, PARAGRAPHS, name)}: does not hold the {marker['paragraphs']:,} paragraphs "
                    f"that its marker names. {_again(directory, VECTORS, name)}"
                )
            self.shards.append(Shard(directory, name, first, rows))
            first += len(rows)
        self._firsts = np.array([shard.first for shard in self.shards], np.int64)
        self.count = first

    def marker(self, step: str, name: str) -> dict[str, Any]:
        """What is said of the output of a step for a shard."""
        counts = ShardMarkers(self.directory).counts(f"{step}/{name}")
        assert counts is not None, (step, name)
        return counts

    @cached_property
    def identity(self) -> str:
        """Of all paragraphs, in order."""
        return digest(np.concatenate([shard.rows["text"] for shard in self.shards]))

    @cached_property
    def documents(self) -> Numbers:
        """Number of each paragraph's document, [paragraphs]."""
        parts, first = [], 0
        for shard in self.shards:
            parts.append(shard.rows["document"].astype(np.int64) + first)
            first += len(shard.documents)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @cached_property
    def unique(self) -> Numbers:
        """Numbers of the paragraphs without those that occur before, ascending."""
        texts = np.concatenate([shard.rows["text"] for shard in self.shards])
        return np.sort(np.unique(texts, return_index=True)[1]).astype(np.int64)

    @cached_property
    def tokens(self) -> Numbers:
        """Tokens of each paragraph, [paragraphs]."""
        return np.concatenate([shard.rows["tokens"] for shard in self.shards]).astype(np.int64)

    def vectors(self, encoder: str) -> npt.NDArray[np.float32]:
        """Vectors of the unique paragraphs, [unique, dimension].

        Args:
            encoder: fingerprint that they must have been made by.

        Raises:
            StageError: vectors are of another encoder or of other paragraphs, or not finite.
        """
        parts, unique = [], self.unique
        for shard in self.shards:
            path = array_path(self.directory, VECTORS, shard.name)
            marker = self.marker(VECTORS, shard.name)
            again = _again(self.directory, VECTORS, shard.name)
            if marker["encoder"] != encoder:
                raise StageError(f"{path}: made by another encoder than composition.encoder.model names. {again}")
            vectors = load_array(path, again)
            if vectors.ndim != 2 or len(vectors) != len(shard.rows):
                raise StageError(
                    f"{path}: vectors of {len(vectors)} paragraphs, but the shard has {len(shard.rows)}: they are of "
                    f"another corpus. {again}"
                )
            if digest(vectors) != marker["vectors"]:
                raise StageError(f"{path}: holds other vectors than those its marker names. {again}")
            own = unique[(unique >= shard.first) & (unique < shard.numbers.stop)] - shard.first
            finite = np.isfinite(vectors).all(1)
            if not finite.all():
                raise StageError(f"{path}: row {int(np.flatnonzero(~finite)[0])} is not finite. {again}")
            parts.append(np.asarray(vectors[own], np.float32))
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            raise StageError(f"{self.directory / VECTORS}: vectors have different lengths {sorted(widths)}")
        return np.concatenate(parts)

    def check(self) -> None:
        """Refuses a corpus without anything to put beside a paragraph.

        Raises:
            InputError: it has fewer than two paragraphs.
        """
        if len(self.unique) < 2:
            raise InputError(
                f"composition: the corpus has {len(self.unique)} different paragraphs; a context needs at least two. "
                "Add text, or leave out the section"
            )

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of a paragraph and its row there."""
        index = int(np.searchsorted(self._firsts, number, "right")) - 1
        # Shards without paragraphs begin where the next one does; the last of them holds the number.
        return self.shards[index], number - self.shards[index].first

    def text(self, number: int) -> str:
        shard, row = self.place(number)
        return bytes(shard.texts[row]).decode("utf-8", "surrogatepass")

    def ids(self, number: int) -> npt.NDArray[Any]:
        """Token ids of the model's tokenizer, without line break."""
        shard, row = self.place(number)
        return shard.tokens[row]

    def name(self, number: int) -> str:
        """``document#3``: the id of its document and its place in it."""
        shard, row = self.place(number)
        document = int(shard.rows["document"][row])
        first = int(np.searchsorted(shard.rows["document"], document))
        return f"{shard.documents[document]}#{row - first}"
