"""The engine ``mined`` as a pair source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from megatron_ipt.corpus.documents import Document
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.chaining import chain_up
from megatron_ipt.synthesis.from_text.mined.config import MinedConfig
from megatron_ipt.synthesis.from_text.mined.miner import Miner
from megatron_ipt.synthesis.pairs import Chain, Example
from megatron_ipt.synthesis.statistics import Statistics


class Section(Protocol):
    """What is read of the recipe section ``synthesis``."""

    mined: MinedConfig
    chain_length: int
    passage_characters: int


class MinedSource:
    """Mines every text independently; chains are made of neighbouring texts."""

    def __init__(self, config: Section, seed: int):
        self._config = config
        self._miner = Miner(seed, config.mined)

    def chains(self, documents: Iterable[Document], rejects: Rejects, statistics: Statistics) -> Iterator[Chain]:
        for chain in chain_up(documents, self._config.chain_length, self._config.passage_characters):
            yield replace(chain, examples=[self._mine(example) for example in chain.examples])

    def _mine(self, example: Example) -> Example:
        text, pairs = self._miner.mine(example.id, example.text, example.title)
        return replace(example, text=text, pairs=pairs)
