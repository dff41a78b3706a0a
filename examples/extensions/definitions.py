"""A source of pairs without a model: a rule of your own, here one that asks what a thing is where the text says so.

    megatron-ipt run RECIPE extensions='[examples/extensions/definitions.py]' synthesis.engine=definitions

It gets documents and gives chains of examples; the rest of the run is as with any engine.
"""

import re
from dataclasses import replace

from megatron_ipt.synthesis.from_text.chaining import chain_up
from megatron_ipt.synthesis.pair_sources import SOURCES, PairSource
from megatron_ipt.synthesis.pairs import Pair

_IS_A = re.compile(r"(?<![^.!?] )\b((?:An?|The) [a-z][a-z -]{2,40}?) (is|are|was|were) ((?:an?|the) [^.!?]{5,200})[.]")


class Definitions:
    """``A cistern is a tank that keeps rain.`` becomes ``What is a cistern?`` with its answer."""

    def __init__(self, config, seed):
        self._config = config

    def chains(self, documents, rejects, statistics):
        for chain in chain_up(documents, self._config.chain_length, self._config.passage_characters):
            examples = [replace(example, pairs=pairs_of(example.text)) for example in chain.examples]
            yield replace(chain, examples=examples)


def pairs_of(text):
    """A pair for every sentence of ``text`` that says what something is."""
    return [
        Pair(f"What {verb} {thing[0].lower()}{thing[1:]}?", f"{answer[0].upper()}{answer[1:]}.", "definition")
        for thing, verb, answer in _IS_A.findall(text)
    ]


SOURCES["definitions"] = PairSource(
    "documents", f"{__file__}:Definitions", "a question for each definition in the text"
)
