"""Which texts share a chain."""

from __future__ import annotations

import json

from megatron_ipt.corpus.documents import Document
from megatron_ipt.synthesis.from_text.chaining import chain_up
from megatron_ipt.synthesis.pairs import Chain


def documents(*kinds: tuple[str, str]) -> list[Document]:
    return [Document(str(n), f"Text {n}.", "", split, domain) for n, (split, domain) in enumerate(kinds)]


def layout(chains: list[Chain]) -> list[tuple[str, str, list[str]]]:
    return [(chain.split, chain.domain, [example.id for example in chain.examples]) for chain in chains]


def test_a_chain_has_one_split_and_one_domain() -> None:
    kinds = [("train", "law"), ("train", "code"), ("train", "law"), ("valid", "law"), ("train", ""), ("train", "law")]
    assert layout(list(chain_up(documents(*kinds), 2, 1000))) == [
        ("train", "law", ["0", "2"]),
        ("train", "law", ["5"]),
        ("train", "code", ["1"]),
        ("valid", "law", ["3"]),
        ("train", "", ["4"]),
    ]


def test_passages_of_a_long_document_keep_its_domain() -> None:
    long = Document("a", "One sentence here. " * 40, "", "train", "law")
    chains = list(chain_up([long], 1, 200))
    assert len(chains) > 3
    assert {chain.domain for chain in chains} == {"law"}


def test_a_domain_is_written_only_where_there_is_one() -> None:
    for domain in ("", "law"):
        (chain,) = chain_up(documents(("train", domain)), 2, 1000)
        record = json.loads(json.dumps(chain.to_json()))
        assert record.get("domain") == (domain or None)
        assert Chain.from_json(record) == chain
