"""Recipe section ``corpus``, and the same reading options for other sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from megatron_ipt.config import key
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.seeding import unit_interval


@dataclass
class CorpusConfig:
    inputs: list[str] = key(
        [],
        "Files, folders (searched recursively) or glob patterns: JSON Lines, Parquet, plain text or SQuAD-format JSON, "
        "optionally .gz or .zst; local paths or fsspec addresses such as s3://bucket/part-*.jsonl.zst.",
    )
    reader: str | None = key(
        None,
        "A custom reader for all inputs, module:function or path/to/file.py:function. By default the suffix decides.",
    )
    text_key: str = key(ReadOptions.text_key, "Field or column that holds the text.")
    id_key: str = key(ReadOptions.id_key, "Field or column that holds the document id; without one, ids are file:line.")
    title_key: str = key(ReadOptions.title_key, "Field or column that holds a title, if there is one.")
    domain_key: str | None = key(
        None, "Field or column that holds the domain of a record, such as its source or subject. Empty: none."
    )
    domains: dict[str, list[str]] = key(
        {},
        "Domains by input: NAME: [files, folders or patterns], e.g. {code: [data/code], books: [data/books/*.jsonl]}. "
        "The first that matches a file counts; a domain in the record itself takes precedence.",
    )
    text_documents: str = key(
        ReadOptions.text_documents,
        "What is one document in a plain text file: the whole file; the text under a top-level heading (= T = or "
        "# T); a passage of whole paragraphs; auto: heading if there are any, else file up to 64 KiB, else passage.",
        choices=("auto", "file", "heading", "passage"),
    )
    passage_characters: int = key(
        ReadOptions.passage_characters, "Minimum length of a passage of a plain text file, in characters.", minimum=1
    )
    minimum_characters: int = key(ReadOptions.minimum_characters, "Shorter documents are rejected.", minimum=1)
    maximum_reject_share: float = key(
        ReadOptions.maximum_reject_share,
        "Stop when more than this share of records is rejected.",
        minimum=0,
        maximum=1,
    )
    synthesis_share: float = key(
        1.0,
        "Share of documents, chosen by a hash of their id, that get instruction pairs; the rest stays raw. "
        "The general recipe of the paper uses 0.2, domain-adaptive pre-training 1.0.",
        minimum=0,
        maximum=1,
    )
    slice: list[float] = key(
        [0.0, 1.0],
        "Read only documents whose hash lies in this stretch of 0 to 1, e.g. [0, 0.05], to train a model on a part of "
        "the text that another run must not see: that one reads [0.05, 1].",
        minimum=0,
        maximum=1,
    )
    slice_seed: int = key(
        1234,
        "Seed of the hash for slice. Not that of the recipe: runs with other seeds share the corpus alike.",
        minimum=0,
    )
    valid_share: float = key(0.02, "Share of documents, by hash of their id, held out for validation.", minimum=0)
    test_share: float = key(0.0, "Share of documents, by hash of their id, held out for a final test.", minimum=0)
    shard_documents: int = key(20_000, "Documents per shard: the unit of later work and of resume.", minimum=1)

    def begins(self) -> bool:
        """Whether a flow can begin with a corpus."""
        return bool(self.inputs)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share together leave nothing to train on"
        if len(self.slice) != 2 or not self.slice[0] < self.slice[1]:
            yield "slice", f"{self.slice} is not a stretch; give its beginning and its end, e.g. [0.05, 1]"
        yield from problems_of_domains(self.domains)

    def in_slice(self, document_id: str) -> bool:
        """Whether a document lies in the slice that is read."""
        if self.slice == [0, 1]:
            return True
        return self.slice[0] <= unit_interval(self.slice_seed, "slice", document_id) < self.slice[1]

    def options(self) -> ReadOptions:
        """The options of the reader."""
        return ReadOptions(section="corpus", **_given(self))


def problems_of_domains(domains: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for name, inputs in domains.items():
        if not name.strip():
            yield "domains", "a name is empty"
        if not inputs:
            yield f"domains.{name}", "is empty; name at least one file, folder or pattern"


def like_corpus(name: str) -> Any:
    """An optional key that is like ``corpus.NAME``, and takes its value by default."""
    metadata = next(field.metadata for field in dataclasses.fields(CorpusConfig) if field.name == name)
    return dataclasses.field(default=None, metadata={**metadata, "help": f"Like corpus.{name}, its default."})


Overrides = TypeVar("Overrides", bound="ReadOverrides")


@dataclass
class ReadOverrides:
    """How files outside the corpus are read: like the corpus, except for the keys given here."""

    reader: str | None = dataclasses.field(
        default=None, metadata={"help": "Like corpus.reader, its default. '' chooses by the suffix."}
    )
    text_key: str | None = like_corpus("text_key")
    id_key: str | None = like_corpus("id_key")
    title_key: str | None = like_corpus("title_key")
    text_documents: str | None = like_corpus("text_documents")
    passage_characters: int | None = like_corpus("passage_characters")
    minimum_characters: int | None = like_corpus("minimum_characters")
    maximum_reject_share: float | None = like_corpus("maximum_reject_share")

    def inherit(self: Overrides, corpus: CorpusConfig) -> Overrides:
        """A copy that takes from ``corpus`` what it leaves empty."""
        inherited = {
            field.name: getattr(corpus, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is None and hasattr(corpus, field.name)
        }
        return dataclasses.replace(self, **inherited)

    def options(self, section: str) -> ReadOptions:
        """The options of the reader, with its defaults for what is still empty.

        Args:
            section: of the recipe, for messages.
        """
        return ReadOptions(section=section, **_given(self))


def _given(settings: Any) -> dict[str, Any]:
    """The options of the reader that ``settings`` hold."""
    names = {field.name for field in dataclasses.fields(ReadOptions)} & vars(settings).keys()
    return {name: value for name in names if (value := getattr(settings, name)) is not None}
