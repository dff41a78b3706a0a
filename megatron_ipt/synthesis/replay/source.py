"""The engine ``replay``: chains from files of gold pairs, to judge augmentation and training on good ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from megatron_ipt.corpus.stage import split_of
from megatron_ipt.errors import InputError
from megatron_ipt.files import iter_lines, open_bytes
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.categories import classify
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from megatron_ipt.synthesis.replay.formats import (
    Problem,
    aqua_pair,
    format_of,
    gsm8k_pair,
    squad_pair,
    squad_paragraphs,
)

if TYPE_CHECKING:
    from megatron_ipt.synthesis.config import SynthesisConfig

_PROBLEMS: dict[str, Callable[[dict[str, Any]], Problem]] = {"gsm8k": gsm8k_pair, "aqua": aqua_pair}
_DAMAGED = (KeyError, TypeError, AttributeError, IndexError)


class ReplaySource:
    """Reads ``synthesis.replay.inputs``; M texts of one article, in order, make a chain."""

    def __init__(self, config: SynthesisConfig, seed: int):
        self._config = config.replay
        self._length = config.chain_length
        self._seed = seed

    def files(self) -> list[Path]:
        files = [Path(path) for path in self._config.inputs]
        for path in files:
            if not path.is_file():
                raise InputError(f"synthesis.replay.inputs: {path}: no such file")
        return files

    def read(self, path: Path, rejects: Rejects) -> Iterator[Chain]:
        form = self._format(path)
        if form == "squad":
            yield from self._squad(path, rejects)
        elif form == "chains":
            for number, record in _records(path, rejects):
                try:
                    yield Chain.from_json(record)
                except _DAMAGED as error:
                    rejects.add("not a chain", str(path), number, repr(error))
        else:
            yield from self._problems(path, _PROBLEMS[form], rejects)

    def _format(self, path: Path) -> str:
        if self._config.format != "auto":
            return self._config.format
        form = None
        try:
            form = format_of(orjson.loads(next(line for line in iter_lines(path) if line.strip())))
        except StopIteration:
            raise InputError(f"{path}: is empty") from None
        except orjson.JSONDecodeError:
            # Not JSON Lines; perhaps one JSON value over many lines.
            form = format_of(_whole(path))
        if form is None:
            raise InputError(
                f"{path}: in none of the formats of synthesis.replay.format; name it there if it is in one"
            )
        return form

    def _squad(self, path: Path, rejects: Rejects) -> Iterator[Chain]:
        group: list[Example] = []
        article = None
        try:
            for number, (title, context, questions) in enumerate(squad_paragraphs(_whole(path))):
                found = [self._pair(squad_pair, question, path, None, rejects) for question in questions]
                pairs = [pair for pair in found if pair is not None]
                if group and (title != article or len(group) == self._length):
                    yield self._chain(group)
                    group = []
                article = title
                group.append(Example(f"{path.stem}:{number}", context, title.replace("_", " "), pairs))
        except _DAMAGED as error:
            raise InputError(f"{path}: not in the format squad: {error!r}") from error
        if group:
            yield self._chain(group)

    def _problems(self, path: Path, convert: Callable[[dict[str, Any]], Problem], rejects: Rejects) -> Iterator[Chain]:
        group: list[Pair] = []
        first = 0
        for number, record in _records(path, rejects):
            pair = self._pair(convert, record, path, number, rejects)
            if pair is None:
                continue
            first = first or number
            group.append(pair)
            if len(group) == self._config.problems_per_document:
                yield self._chain([Example(f"{path.stem}:{first}", "", pairs=group)])
                group, first = [], 0
        if group:
            yield self._chain([Example(f"{path.stem}:{first}", "", pairs=group)])

    def _pair(
        self, convert: Callable[[Any], Problem], record: Any, path: Path, number: int | None, rejects: Rejects
    ) -> Pair | None:
        try:
            pair, fault = convert(record)
        except _DAMAGED as error:
            pair, fault = None, f"not in the format: {error!r}"
        if pair is None:
            rejects.add(fault, str(path), number, sample=str(record))
            return None
        return replace(pair, category=classify(pair))

    def _chain(self, examples: list[Example]) -> Chain:
        name = examples[0].id
        split = split_of(name, self._seed, self._config.valid_share, self._config.test_share)
        return Chain(name, split, examples)


def _whole(path: Path) -> Any:
    with open_bytes(path) as stream:
        try:
            return orjson.loads(stream.read())
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}: neither JSON nor JSON Lines: {error}") from error


def _records(path: Path, rejects: Rejects) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            rejects.add("not valid JSON", str(path), number, str(error), line.decode("utf-8", "replace"))
