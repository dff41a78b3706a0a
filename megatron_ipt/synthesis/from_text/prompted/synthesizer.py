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
from functools import partial
from typing import Any

import orjson

from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.segments import generate_until_enough
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.from_text.categories import classify
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig, filter_pairs
from megatron_ipt.synthesis.from_text.prompted.health import EMPTY, REFUSED, Answer, judged
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleShare
from megatron_ipt.synthesis.from_text.prompted.parsing import CUT_OFF
from megatron_ipt.synthesis.from_text.prompted.style import Drop, TextPrompt
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from megatron_ipt.synthesis.statistics import ANSWERS_IN_LOOPS, REFUSED_TEXTS

TOO_LONG = "text longer than the context"
BLANK = "text without words"
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters besides tab and newline: no part of a pair, and trouble in files and terminals."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass
class PlannedChain:
    """A chain before it has pairs.

    Attributes:
        index: its number in the shard.
        chain: its texts.
        by: the style in which it is asked.
        prompts: what to append to a prompt to ask about each text.
    """

    index: int
    chain: Chain
    by: StyleShare
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
        filters: which pairs are kept.
        seed: of the recipe.
        name_styles: whether pairs record the name of their prompt style.
        check_tokens: every answer is checked for repeated pairs after this many tokens; 0 for never.
    """

    def __init__(
        self, engine: Engine, filters: FilterConfig, seed: int, name_styles: bool = False, check_tokens: int = 0
    ):
        self._engine = engine
        self._filters = filters
        self._seed = seed
        self._name_styles = name_styles
        self._check_tokens = check_tokens

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
        by, style = planned.by, planned.by.style
        documents: list[list[Example]] = []
        earlier: tuple[Prompt, list[int], str] | None = None
        for example, text in zip(planned.chain.examples, planned.prompts):
            prompt = style.begin(text)
            if earlier is not None:
                longer = style.follow(*earlier, text)
                if style.fits(longer):
                    prompt = longer
                else:
                    outcome.counts["chains_cut_for_length"] += 1
                    earlier = None
            completion = await self._ask(by, example, text, prompt, number, outcome)
            dropped_before = len(outcome.drops)
            pairs = self._pairs(by, example, text, completion, outcome) if completion is not None else []
            if completion is not None:
                dropped = [drop.reason for _, drop in outcome.drops[dropped_before:]]
                answer = judged(example.text, prompt.text, completion, pairs, dropped, style.wordings, text.task)
                outcome.counts.update(answer.counts())
                watch(answer)
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
            earlier = (prompt, *style.repeated(completion))
        outcome.chains = [replace(planned.chain, id=examples[0].id, examples=examples) for examples in documents]
        return outcome

    async def _ask(
        self, by: StyleShare, example: Example, text: TextPrompt, prompt: Prompt, number: int, outcome: Outcome
    ) -> Completion | None:
        if not example.text.strip():
            outcome.drops.append((example.id, Drop(BLANK, "")))
            return None
        if not by.style.fits(prompt):
            outcome.drops.append((example.id, Drop(TOO_LONG, example.text)))
            return None
        seed = derive(self._seed, "generation", example.id) % (1 << 31)
        request = Request(prompt, by.style.sampling(by.sampling, text), number, seed)
        if self._check_tokens:
            repeats = partial(by.style.repeats, text=text)
            request = replace(request, enough=repeats, check_tokens=self._check_tokens)
        try:
            completion = await generate_until_enough(self._engine, request)
        except RequestRefused as refusal:
            outcome.counts[REFUSED_TEXTS] += 1
            outcome.drops.append((example.id, Drop(REFUSED, _visible(str(refusal)))))
            return None
        outcome.counts["requests"] += 1
        generated = completion.generated_tokens
        # As the engine counted them: the ids of a chat that a server renders only stand for its length.
        outcome.counts["prompt_tokens"] += completion.prompt_tokens
        outcome.counts["generated_tokens"] += len(completion.ids) if generated is None else generated
        if completion.enough:
            outcome.counts[ANSWERS_IN_LOOPS] += 1
            return by.style.without_repeats(completion, text)
        return completion

    def _pairs(
        self, by: StyleShare, example: Example, text: TextPrompt, completion: Completion, outcome: Outcome
    ) -> list[Pair]:
        pairs, drops = by.style.parse(_visible(completion.text), completion.finished and not completion.enough, text)
        if completion.enough:
            # It was cut behind its last new pair, not by the token limit.
            drops = [drop for drop in drops if drop.reason != CUT_OFF]
        if not completion.text.strip():
            drops.append(Drop(EMPTY, ""))
        kept, filtered = filter_pairs(example.text, pairs, self._filters)
        outcome.drops += [(example.id, drop) for drop in (*drops, *filtered)]
        style = by.name if self._name_styles else ""
        return [pair._replace(category=classify(pair), task=text.task, style=style) for pair in kept]


def _visible(text: str) -> str:
    return _INVISIBLE.sub("", _SURROGATE.sub("\ufffd", text))
