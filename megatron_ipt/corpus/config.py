"""Recipe section ``corpus``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class CorpusConfig:
    inputs: list[str] = key(
        [],
        "Files, folders (searched recursively) or glob patterns: JSON Lines, Parquet, plain text or SQuAD-format JSON, "
        "optionally .gz or .zst; local paths or fsspec addresses such as s3://bucket/part-*.jsonl.zst.",
    )
    reader: str | None = key(
        None,
        "A reader of your own for all inputs, module:function or path/to/file.py:function; empty: by the suffix.",
    )
    text_key: str = key("text", "Field or column that holds the text.")
    id_key: str = key("id", "Field or column that holds the document id; without one, ids are file:line.")
    title_key: str = key("title", "Field or column that holds a title, if there is one.")
    text_documents: str = key(
        "auto",
        "What is one document in a plain text file: the whole file; what stands under a top-level heading (= T = or "
        "# T); a passage of whole paragraphs; auto: heading where there are any, else file up to 64 KiB, else passage.",
        choices=("auto", "file", "heading", "passage"),
    )
    passage_characters: int = key(2000, "Least length of a passage of a plain text file, in characters.", minimum=1)
    minimum_characters: int = key(1, "Shorter documents are rejected.", minimum=1)
    maximum_reject_share: float = key(
        0.05, "Stop when more than this share of records is rejected.", minimum=0, maximum=1
    )
    synthesis_share: float = key(
        1.0,
        "Share of documents, chosen by a hash of their id, that get instruction pairs; the rest stays raw. "
        "The general recipe of the paper uses 0.2, domain-adaptive pre-training 1.0.",
        minimum=0,
        maximum=1,
    )
    valid_share: float = key(0.02, "Share of documents, by hash of their id, held out for validation.", minimum=0)
    test_share: float = key(0.0, "Share of documents, by hash of their id, held out for a final test.", minimum=0)
    shard_documents: int = key(20_000, "Documents a shard: the unit of later work and of resume.", minimum=1)

    def begins(self) -> bool:
        """Whether a flow can begin with a corpus."""
        return bool(self.inputs)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.valid_share + self.test_share >= 1:
            yield "valid_share", "valid_share and test_share together leave nothing to train on"
