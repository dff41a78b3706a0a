"""The engine ``replay``: chains from files with pairs, e.g. gold ones to judge augmentation and training on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson

from megatron_ipt.corpus.documents import split_of
from megatron_ipt.corpus.inputs import base_suffix, matching_files
from megatron_ipt.errors import InputError
from megatron_ipt.files import is_remote, iter_lines
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.categories import classify
from megatron_ipt.synthesis.from_text.replay.config import ReplayConfig
from megatron_ipt.synthesis.from_text.replay.formats import PROBLEMS, TEXTS, Problem, format_of
from megatron_ipt.synthesis.from_text.replay.records import read_records, read_whole
from megatron_ipt.synthesis.pairs import Chain, Example, Pair

_SUFFIXES = (".json", ".jsonl", ".ndjson")
_DAMAGED = (KeyError, TypeError, AttributeError, IndexError)


def _is_readable(path: str, entry: str) -> bool:
    """Whether a file is read: one that is named is, whatever its suffix."""
    return path == entry or base_suffix(path) in _SUFFIXES


class Section(Protocol):
    """What is read of the recipe section ``synthesis``."""

    replay: ReplayConfig
    chain_length: int


class PairReader:
    """Reads files with pairs. A chain is M consecutive texts of a file, in SQuAD files of one article.

    Args:
        config: what to read, and how.
        length: M.
        seed: of the recipe, for splits.
        section: recipe section of the inputs and of their format, for messages.
    """

    def __init__(self, config: ReplayConfig, length: int, seed: int, section: str):
        self._config = config
        self._length = length
        self._seed = seed
        self._section = section

    def files(self) -> list[Path]:
        """The files that the recipe names, in order.

        Raises:
            InputError: one is missing or at a remote address.
        """
        key = f"{self._section}.inputs"
        files: list[Path] = []
        for entry in self._config.inputs:
            if is_remote(entry):
                raise InputError(f"{key}: {entry}: remote addresses are not supported; copy the file here")
            found = [Path(file.path) for file in matching_files(entry, key) if _is_readable(file.path, entry)]
            if not found:
                raise InputError(f"{key}: {entry}: no file that ends in {', '.join(_SUFFIXES)}")
            files += found
        return list(dict.fromkeys(files))

    def read(self, path: Path, rejects: Rejects) -> Iterator[Chain]:
        """Chains of one file; what cannot be used goes to ``rejects``.

        Raises:
            InputError: the file is empty, damaged, or in none of the known formats.
        """
        form = self._format(path)
        if form in TEXTS:
            yield from self._texts(path, form, rejects)
        elif form == "chains":
            for number, record in read_records(path, rejects):
                try:
                    yield Chain.from_json(record)
                except _DAMAGED as error:
                    rejects.add("not a chain", str(path), number, repr(error))
        else:
            yield from self._problems(path, PROBLEMS[form], rejects)

    def _format(self, path: Path) -> str:
        if self._config.format != "auto":
            return self._config.format
        form = None
        try:
            form = format_of(orjson.loads(next(line for line in iter_lines(path) if line.strip())))
        except StopIteration:
            raise InputError(f"{path}: is empty") from None
        except orjson.JSONDecodeError:
            # Not JSON Lines; perhaps a single JSON value over many lines.
            form = format_of(read_whole(path))
        if form is None:
            raise InputError(
                f"{path}: matches none of the formats of {self._section}.format; set that key if it is in one of them"
            )
        return form

    def _texts(self, path: Path, form: str, rejects: Rejects) -> Iterator[Chain]:
        group: list[Example] = []
        article = None
        count = 0
        for number, record in read_records(path, rejects):
            try:
                texts = list(TEXTS[form](record))
            except _DAMAGED as error:
                if number is None:
                    raise InputError(f"{path}: not in the format {form}: {error!r}") from error
                rejects.add(f"not in the format {form}", str(path), number, repr(error), str(record))
                continue
            for title, text, tasks in texts:
                found = [self._pair(convert, task, path, number, rejects) for task, convert in tasks]
                pairs = [pair for pair in found if pair is not None]
                if form == "questions" and group and group[-1].text == text:
                    # Its questions are consecutive records.
                    group[-1].pairs.extend(pairs)
                    continue
                ends = form == "squad" and title != article
                if group and (ends or len(group) == self._length):
                    yield self._chain(group)
                    group = []
                article = title
                group.append(Example(f"{path.stem}:{count}", text, str(title).replace("_", " "), pairs))
                count += 1
        if group:
            yield self._chain(group)

    def _problems(self, path: Path, convert: Callable[[dict[str, Any]], Problem], rejects: Rejects) -> Iterator[Chain]:
        group: list[Pair] = []
        first = 0
        for number, record in read_records(path, rejects):
            pair = self._pair(convert, record, path, number, rejects)
            if pair is None:
                continue
            first = first or number or 1
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
        return pair._replace(category=classify(pair))

    def _chain(self, examples: list[Example]) -> Chain:
        name = examples[0].id
        split = split_of(name, self._seed, self._config.valid_share, self._config.test_share)
        return Chain(name, split, examples)


class ReplaySource(PairReader):
    """The engine: reads ``synthesis.replay.inputs``."""

    def __init__(self, config: Section, seed: int):
        super().__init__(config.replay, config.chain_length, seed, "synthesis.replay")
