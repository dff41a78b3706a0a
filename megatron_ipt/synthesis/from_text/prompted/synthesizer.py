"""Makes the pairs of one chain: its texts one after another, each prompted with the earlier ones in front of it.

A chain is cut where a text got no pairs (it becomes a document by itself, and the next text begins a new chain) or
where the prompt would exceed the context (the text begins a new chain). One planned chain thus becomes one or more
documents, in order, with every text in exactly one of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.from_text.categories import classify
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig, filter_pairs
from megatron_ipt.synthesis.from_text.prompted.health import REFUSED, Answer, copied
from megatron_ipt.synthesis.from_text.prompted.style import Drop, PromptStyle, TextPrompt
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from megatron_ipt.synthesis.statistics import ANSWERS_CUT_OFF, ANSWERS_FROM_PROMPT, REFUSED_TEXTS

TOO_LONG = "text longer than the context"
BLANK = "text without words"
EMPTY = "empty answer of the engine"
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters besides tab and newline: no part of a pair, and trouble in files and terminals."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass
class PlannedChain:
    """A chain before it has pairs.

    Attributes:
        index: its number in the shard.
        chain: its texts.
        prompts: what to append to a prompt to ask about each text.
    """

    index: int
    chain: Chain
    prompts: list[TextPrompt]


@dataclass
class Outcome:
    """The result of a planned chain: documents, drops (with the id of their text) and counts."""

    chains: list[Chain] = field(default_factory=list)
    drops: list[tuple[str, Drop]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def dump(self) -> bytes:
        return orjson.dumps(
            {
                "chains": [chain.to_json() for chain in self.chains],
                "drops": [[text, drop.reason, drop.sample] for text, drop in self.drops],
                "counts": self.counts,
            }
        )

    @classmethod
    def load(cls, data: bytes) -> Outcome:
        record: dict[str, Any] = orjson.loads(data)
        return cls(
            [Chain.from_json(chain) for chain in record["chains"]],
            [(text, Drop(reason, sample)) for text, reason, sample in record["drops"]],
            Counter(record["counts"]),
        )


class Synthesizer:
    """Makes pairs with an engine.

    Args:
        engine: that generates, entered before the first chain.
        prompts: asks about texts and parses answers.
        sampling: the recipe's, from which the prompt style makes its own.
        filters: which pairs are kept.
        seed: of the recipe.
    """

    def __init__(self, engine: Engine, prompts: PromptStyle, sampling: Sampling, filters: FilterConfig, seed: int):
        self._engine = engine
        self._prompts = prompts
        self._sampling = sampling
        self._filters = filters
        self._seed = seed

    async def synthesize(self, planned: PlannedChain, number: int, watch: Callable[[Answer], None]) -> Outcome:
        """Asks for the pairs of every text.

        Args:
            planned: the chain.
            number: distinguishes chains in this process.
            watch: called with every answer; what it raises ends the chain.

        Raises:
            EngineError: the engine cannot continue.
        """
        outcome = Outcome()
        documents: list[list[Example]] = []
        earlier: tuple[Prompt, list[int], str] | None = None
        for example, text in zip(planned.chain.examples, planned.prompts):
            prompt = self._prompts.begin(text)
            if earlier is not None:
                longer = self._prompts.follow(*earlier, text)
                if self._prompts.fits(longer):
                    prompt = longer
                else:
                    outcome.counts["chains_cut_for_length"] += 1
                    earlier = None
            completion = await self._ask(example, text, prompt, number, outcome)
            dropped_before = len(outcome.drops)
            pairs = self._pairs(example, text, completion, outcome) if completion is not None else []
            if completion is not None:
                watch(self._judged(prompt, completion, len(pairs), outcome, dropped_before))
            example = replace(example, pairs=pairs)
            if not pairs:
                outcome.counts["chains_cut_for_lack_of_pairs"] += earlier is not None
                documents.append([example])
                earlier = None
                continue
            assert completion is not None
            if earlier is None:
                documents.append([])
            documents[-1].append(example)
            earlier = (prompt, *self._prompts.repeated(completion))
        outcome.chains = [replace(planned.chain, id=examples[0].id, examples=examples) for examples in documents]
        return outcome

    def _judged(
        self, prompt: Prompt, completion: Completion, pairs: int, outcome: Outcome, dropped_before: int
    ) -> Answer:
        from_prompt = copied(completion.text, prompt.text)
        # Not counted as 0: the counts of a good model list no defects.
        if from_prompt:
            outcome.counts[ANSWERS_FROM_PROMPT] += 1
        if not completion.finished:
            outcome.counts[ANSWERS_CUT_OFF] += 1
        dropped = tuple(drop.reason for _, drop in outcome.drops[dropped_before:])
        return Answer(completion.text, completion.finished, from_prompt, pairs, dropped)

    async def _ask(
        self, example: Example, text: TextPrompt, prompt: Prompt, number: int, outcome: Outcome
    ) -> Completion | None:
        if not example.text.strip():
            outcome.drops.append((example.id, Drop(BLANK, "")))
            return None
        if not self._prompts.fits(prompt):
            outcome.drops.append((example.id, Drop(TOO_LONG, example.text)))
            return None
        seed = derive(self._seed, "generation", example.id) % (1 << 31)
        request = Request(prompt, self._prompts.sampling(self._sampling, text), number, seed)
        try:
            completion = await self._engine.generate(request)
        except RequestRefused as refusal:
            outcome.counts[REFUSED_TEXTS] += 1
            outcome.drops.append((example.id, Drop(REFUSED, _visible(str(refusal)))))
            return None
        outcome.counts["requests"] += 1
        generated = completion.generated_tokens
        # As the engine counted them: the ids of a chat that a server renders only stand for its length.
        outcome.counts["prompt_tokens"] += completion.prompt_tokens
        outcome.counts["generated_tokens"] += len(completion.ids) if generated is None else generated
        return completion

    def _pairs(self, example: Example, text: TextPrompt, completion: Completion, outcome: Outcome) -> list[Pair]:
        pairs, drops = self._prompts.parse(_visible(completion.text), completion.finished, text)
        if not completion.text.strip():
            drops.append(Drop(EMPTY, ""))
        kept, filtered = filter_pairs(example.text, pairs, self._filters)
        outcome.drops += [(example.id, drop) for drop in (*drops, *filtered)]
        return [pair._replace(category=classify(pair), task=text.task) for pair in kept]


def _visible(text: str) -> str:
    return _INVISIBLE.sub("", _SURROGATE.sub("\ufffd", text))
