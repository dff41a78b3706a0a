"""The one reader: from inputs to documents, the same for the corpus and for everything else that is read like it.

It streams: memory does not grow with the input. What cannot be used is counted in the rejects, and too much of it is an
error. Ids come from the record, or from the name of the file and the line, so they do not depend on order or place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.documents import Document
from megatron_ipt.corpus.inputs import InputFile, find_files, matching_files
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import is_readable, read_file, readable_suffixes
from megatron_ipt.errors import InputError
from megatron_ipt.extensions import own_file
from megatron_ipt.files import is_remote
from megatron_ipt.manifest import fingerprint_code, fingerprint_file
from megatron_ipt.rejects import Rejects

logger = logging.getLogger(__name__)


def read_documents(inputs: Sequence[str], options: ReadOptions, rejects: Rejects, key: str = "") -> Iterator[Document]:
    """Documents of all files that ``inputs`` name; their split is not decided yet.

    Args:
        inputs: files, folders (searched recursively), glob patterns or fsspec addresses.
        options: how to read them.
        rejects: takes what cannot be used.
        key: recipe key of the inputs, for errors; that of the options' section by default.

    Raises:
        InputError: an input is missing, damaged or of an unknown format, or too much of it is rejected.
        RecipeError: the custom reader cannot be used.
    """
    yield from DocumentReader(input_files(inputs, options, key), options, rejects)


def input_files(inputs: Sequence[str], options: ReadOptions, key: str = "") -> list[InputFile]:
    """The files that :func:`read_documents` reads, in order.

    Raises:
        InputError: an input is missing or of an unknown format.
    """
    key = key or f"{options.section}.inputs"
    takes = (lambda path: True) if options.reader else is_readable
    readable = f"{readable_suffixes()}, optionally followed by .gz or .zst; {options.section}.reader takes a custom one"
    files, skipped = find_files(inputs, takes, key, readable)
    if skipped:
        logger.warning("%s: %d files of other formats skipped, e.g. %s", key, len(skipped), skipped[0])
    return files


def open_rejects(path: Path, options: ReadOptions) -> Rejects:
    """A rejects file with the limit that ``options`` set."""
    return Rejects(path, options.maximum_reject_share, f"{options.section}.maximum_reject_share")


def input_fingerprints(inputs: Sequence[str], options: ReadOptions, key: str = "") -> list[dict[str, Any]]:
    """Fingerprints of what :func:`read_documents` reads, for manifests: the files and the code of a custom reader."""
    files = [fingerprint_file(file.path) for file in input_files(inputs, options, key)]
    return files + (fingerprint_code(own_file(options.reader)) if options.reader else [])


class DocumentReader:
    """Iterates over the documents of ``files``, once.

    Attributes:
        files: what is read, in order.
        place: number of the file being read, from 1.
        documents: read so far.
        empty_files: paths of those without any record.

    Raises:
        InputError: a pattern of ``options.domains`` matches none of the files; while iterating, see
            :func:`read_documents`.
    """

    def __init__(self, files: Sequence[InputFile], options: ReadOptions, rejects: Rejects):
        self.files = files
        self.place = 0
        self.documents = 0
        self.empty_files: list[str] = []
        self._options = options
        self._rejects = rejects
        self._domains = _domains_by_path(files, options)

    def __iter__(self) -> Iterator[Document]:
        rejects, minimum = self._rejects, self._options.minimum_characters
        for place, file in enumerate(self.files, 1):
            self.place = place
            before = self.documents + rejects.count
            domain = self._domains.get(_absolute(file.path), "")
            for record in read_file(file, self._options, rejects):
                if len(record.text) < minimum or not record.text.strip():
                    rejects.add("too short", file.path, None, f"{record.id}: {len(record.text)} characters")
                    rejects.check(self.documents)
                    continue
                self.documents += 1
                rejects.check(self.documents)
                yield Document(record.id, record.text, record.title, domain=record.domain or domain)
            if self.documents + rejects.count == before:
                self.empty_files.append(file.path)
                logger.warning("%s: %s contains no documents", self._options.section, file.path)
        rejects.check(self.documents, final=True)


def _domains_by_path(files: Sequence[InputFile], options: ReadOptions) -> dict[str, str]:
    known = {_absolute(file.path) for file in files}
    domains: dict[str, str] = {}
    for name, inputs in options.domains.items():
        for entry in inputs:
            key = f"{options.section}.domains.{name}"
            paths = known.intersection(_absolute(file.path) for file in matching_files(entry, key))
            if not paths:
                raise InputError(f"{key}: {entry}: matches none of the files in {options.section}.inputs")
            domains |= {path: name for path in paths if path not in domains}
    return domains


def _absolute(path: str) -> str:
    return path if is_remote(path) else str(Path(path).resolve())
