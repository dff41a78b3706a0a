"""Reads pairs to judge, and the counts of their stage, from folders of the stage ``synthesis`` or files of chains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.errors import InputError
from megatron_ipt.files import list_shards, read_json, read_jsonl
from megatron_ipt.synthesis.pairs import Chain, Example
from megatron_ipt.synthesis.statistics import Statistics, total_of

_NOT_CHAINS = (KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Output:
    """Output of an engine.

    Attributes:
        examples: texts with their pairs.
        statistics: counts of the stage; None if shards without their markers were given.
    """

    examples: list[Example]
    statistics: Statistics | None


def read_output(paths: Sequence[str | Path], limit: int | None = None) -> Output:
    """Reads folders of the stage ``synthesis`` and files of chains (JSON Lines, optionally .gz or .zst).

    Args:
        limit: read only the first texts; None: all. The counts of the stage always cover all texts.

    Raises:
        InputError: a path is missing or contains no chains.
    """
    files = [file for path in paths for file in _files(Path(path))]
    examples: list[Example] = []
    for file in files:
        for chain in chains_of(file):
            examples += chain.examples
            if limit is not None and len(examples) >= limit:
                return Output(examples[:limit], counts_of(files))
    if not examples:
        raise InputError(f"{', '.join(map(str, paths))}: contains no texts")
    return Output(examples, counts_of(files))


def chains_of(file: Path) -> Iterator[Chain]:
    """The chains in a shard.

    Raises:
        InputError: a line is no chain.
    """
    for number, record in enumerate(read_jsonl(file), 1):
        try:
            yield Chain.from_json(record)
        except _NOT_CHAINS as error:
            raise InputError(
                f"{file}:{number}: not a chain of texts with pairs as written by the stage synthesis: {error!r}"
            ) from error


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    shards = list_shards(path) or list_shards(path / "synthesis")
    if not shards:
        raise InputError(f"{path}: contains no shards (shard-*.jsonl) of the stage synthesis")
    return shards


def counts_of(files: Sequence[Path]) -> Statistics | None:
    """The counts in the markers of shards; None if one has no marker."""
    markers = [file.with_name(f"{file.name.split('.', 1)[0]}.done.json") for file in files]
    if not all(marker.exists() for marker in markers):
        return None
    return total_of(read_json(marker) for marker in markers)
