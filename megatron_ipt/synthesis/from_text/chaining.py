"""Groups texts into chains of M: neighbours in the same split and domain; the last chain of a shard may be shorter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from megatron_ipt.corpus.documents import Document
from megatron_ipt.synthesis.from_text.passages import divide
from megatron_ipt.synthesis.pairs import Chain, Example

Divide = Callable[[str], list[str]]
"""Divides a text into passages whose concatenation is the text."""


def examples_of(document: Document, limit: int, divide_passage: Divide | None = None) -> list[Example]:
    """The document as texts of at most ``limit`` characters, called ``id``, ``id#2``, ``id#3``, ...

    Args:
        document: the document to divide.
        limit: maximum characters of a text.
        divide_passage: divides these texts further, for example to a maximum number of tokens.
    """
    passages = divide(document.text, limit)
    if divide_passage is not None:
        passages = [part for passage in passages for part in divide_passage(passage)]
    return [
        Example(document.id if number == 1 else f"{document.id}#{number}", passage, document.title)
        for number, passage in enumerate(passages, 1)
    ]


def chain_up(
    documents: Iterable[Document], length: int, limit: int, divide_passage: Divide | None = None
) -> Iterator[Chain]:
    """Chains of ``length`` texts, without pairs yet; a chain is named after its first text."""
    waiting: dict[tuple[str, str], list[Example]] = {}
    for document in documents:
        group = waiting.setdefault((document.split, document.domain), [])
        for example in examples_of(document, limit, divide_passage):
            group.append(example)
            if len(group) == length:
                yield Chain(group[0].id, document.split, list(group), document.domain)
                group.clear()
    for (split, domain), group in waiting.items():
        if group:
            yield Chain(group[0].id, split, group, domain)
