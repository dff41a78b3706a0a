"""The record that passes from corpus to every later data stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_ipt.seeding import unit_interval

SPLITS = ("train", "valid", "test")


@dataclass
class Document:
    """A document of the corpus.

    Attributes:
        id: stable across runs: that of the input, or ``file:line``.
        text: its text.
        title: empty if the input has none.
        split: ``train``, ``valid`` or ``test``, decided by a hash of the id.
        domain: what kind of text it is, such as its source or subject; empty if unknown.
    """

    id: str
    text: str
    title: str = ""
    split: str = "train"
    domain: str = ""

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.title:
            record["title"] = self.title
        record["split"] = self.split
        if self.domain:
            record["domain"] = self.domain
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Document:
        return cls(
            record["id"],
            record["text"],
            record.get("title", ""),
            record.get("split", "train"),
            record.get("domain", ""),
        )


def split_of(document_id: str, seed: int, valid_share: float, test_share: float) -> str:
    """``train``, ``valid`` or ``test`` for a document, by a hash of its id."""
    draw = unit_interval(seed, "split", document_id)
    if draw < valid_share:
        return "valid"
    return "test" if draw < valid_share + test_share else "train"


NO_DOMAIN = "(none)"
"""Name in counts of documents without a domain."""


class DomainCounts:
    """Documents and characters by domain."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, domain: str, documents: int, characters: int) -> None:
        counts = self._counts.setdefault(domain or NO_DOMAIN, {"documents": 0, "characters": 0})
        counts["documents"] += documents
        counts["characters"] += characters

    def update(self, counts: dict[str, dict[str, int]]) -> None:
        """Adds the result of another :meth:`to_json`."""
        for domain, values in counts.items():
            self.add(domain, values["documents"], values["characters"])

    def to_json(self) -> dict[str, dict[str, int]]:
        """``{domain: {documents, characters}}`` in the order of names."""
        return dict(sorted(self._counts.items()))

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """``{domains: ...}`` for the counts of a stage; empty when no document has a domain."""
        return {"domains": self.to_json()} if self._counts.keys() - {NO_DOMAIN} else {}
