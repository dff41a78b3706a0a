"""The record that passes from corpus to every later data stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SPLITS = ("train", "valid", "test")


@dataclass
class Document:
    """A document of the corpus.

    Attributes:
        id: stable across runs: that of the input, or ``file:line``.
        text: its text.
        title: where the input has one.
        split: ``train``, ``valid`` or ``test``, decided by a hash of the id.
    """

    id: str
    text: str
    title: str = ""
    split: str = "train"

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.title:
            record["title"] = self.title
        record["split"] = self.split
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Document:
        return cls(record["id"], record["text"], record.get("title", ""), record.get("split", "train"))
