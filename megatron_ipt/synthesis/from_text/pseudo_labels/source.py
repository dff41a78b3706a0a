"""The engine ``pseudo_labels`` as a pair source.

Texts are labelled one by one. Two things need others: wrong options from other documents, and the balance of labels.
Both are settled among the documents of one shard, by hashes of their ids, so that neither the number of workers nor the
order of the documents matters and no process has to read what another one does. With other shards, only these two
change. The texts of a shard are held in memory for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from megatron_ipt.corpus.documents import Document
from megatron_ipt.rejects import Rejects
from megatron_ipt.seeding import derive, generator
from megatron_ipt.synthesis.from_text.chaining import chain_up
from megatron_ipt.synthesis.from_text.pseudo_labels.config import PseudoLabelsConfig
from megatron_ipt.synthesis.from_text.pseudo_labels.labeller import QUESTION, SENTIMENT, Finding, Labelled, Labeller
from megatron_ipt.synthesis.from_text.pseudo_labels.questions import EASY_OPTIONS
from megatron_ipt.synthesis.from_text.pseudo_labels.sentiment import LABELS
from megatron_ipt.synthesis.pairs import Chain, Example
from megatron_ipt.synthesis.statistics import GAP_ROUGE, LABEL_BALANCE, ROUGE_BIN_PERCENT, Statistics

SURPLUS = "surplus sentiment label"
HEADING, ENDING = "heading left out with a lead summary", "last sentence left out with a lead summary"
"""Reasons in the rejects. What was left out of a text is in ``detail``, whole."""

_POOL_DOCUMENTS = 1000
"""Of a shard, that give wrong options."""
_TRAIN = "train"


class Section(Protocol):
    """What is read of the recipe section ``synthesis``."""

    pseudo_labels: PseudoLabelsConfig
    chain_length: int
    passage_characters: int


class PseudoLabelSource:
    """Labels every text by rules; chains are made of neighbouring texts."""

    def __init__(self, config: Section, seed: int):
        self._config = config
        self._seed = seed
        self._labeller = Labeller(seed, config.pseudo_labels)

    def chains(self, documents: Iterable[Document], rejects: Rejects, statistics: Statistics) -> Iterator[Chain]:
        ids: set[str] = set()
        chains = list(chain_up(_noted(documents, ids), self._config.chain_length, self._config.passage_characters))
        labelled = [[self._label(example, ids) for example in chain.examples] for chain in chains]
        options = self._options(chains, labelled, ids)
        surplus = self._surplus(each for texts in labelled for each in texts)
        for chain, texts in zip(chains, labelled):
            examples = [self._finish(each, ids, options, surplus, rejects, statistics) for each in texts]
            yield replace(chain, examples=examples)

    def _label(self, example: Example, ids: set[str]) -> Labelled:
        return self._labeller.label(example, document_of(example.id, ids), begins=example.id in ids)

    def _options(self, chains: list[Chain], labelled: list[list[Labelled]], ids: set[str]) -> list[tuple[str, str]]:
        """(document, wrong option), in an order that depends on the seed alone.

        Of training documents only: nothing that is held out may become a part of what is trained on.
        """
        spare = (
            (derive(self._seed, each.example.id, "pool"), each.example.id, each.spare)
            for chain, texts in zip(chains, labelled)
            for each in texts
            if chain.split == _TRAIN and each.spare and each.example.id in ids
        )
        return [(name, option) for _, name, option in heapq.nsmallest(_POOL_DOCUMENTS, spare)]

    def _surplus(self, labelled: Iterable[Labelled]) -> set[str]:
        """Ids of the texts whose sentiment is not asked for, because the shard has more of that label."""
        if not self._config.pseudo_labels.balance_labels:
            return set()
        by_label: dict[str, list[tuple[int, str]]] = {label: [] for label in LABELS}
        for each in labelled:
            for finding in each.findings:
                if finding.rule == SENTIMENT:
                    place = derive(self._seed, each.example.id, "balance")
                    by_label[finding.label].append((place, each.example.id))
        least = min(map(len, by_label.values()))
        return {name for texts in by_label.values() for _, name in sorted(texts)[least:]}

    def _finish(
        self,
        labelled: Labelled,
        ids: set[str],
        options: list[tuple[str, str]],
        surplus: set[str],
        rejects: Rejects,
        statistics: Statistics,
    ) -> Example:
        example = labelled.example
        if labelled.skipped:
            statistics.counts[labelled.skipped] += 1
        if labelled.cut is not None:
            for reason, text in ((HEADING, labelled.cut.heading), (ENDING, labelled.cut.ending)):
                if text:
                    rejects.add(reason, example.id, detail=text)
            if labelled.cut.rouge:
                percent = int(100 * labelled.cut.rouge + 1e-9) // ROUGE_BIN_PERCENT * ROUGE_BIN_PERCENT
                statistics.tally(GAP_ROUGE, f"{percent / 100:.2f}")
        pairs = []
        for finding in labelled.findings:
            if finding.rule == SENTIMENT and example.id in surplus:
                rejects.add(SURPLUS, example.id, detail=finding.label, sample=example.text)
                continue
            easy = self._easy(example.id, document_of(example.id, ids), finding, options)
            pairs.append(self._labeller.pair(example.id, finding, easy))
            if finding.label:
                statistics.tally(LABEL_BALANCE, f"{finding.rule}: {finding.label}")
        return replace(example, pairs=pairs)

    def _easy(self, example_id: str, document: str, finding: Finding, options: list[tuple[str, str]]) -> list[str]:
        """Wrong options from other documents; fewer where the shard has too few."""
        if finding.rule != QUESTION:
            return []
        others = [option for name, option in options if name != document and option not in finding.options]
        others = list(dict.fromkeys(others))
        random = generator(self._seed, example_id, "easy", finding.question)
        return random.sample(others, min(EASY_OPTIONS, len(others)))


def _noted(documents: Iterable[Document], ids: set[str]) -> Iterator[Document]:
    for document in documents:
        ids.add(document.id)
        yield document


def document_of(example_id: str, ids: set[str]) -> str:
    """The id of the document that a text is a part of; ``ids`` are those of all documents."""
    return example_id if example_id in ids else example_id.rpartition("#")[0]
