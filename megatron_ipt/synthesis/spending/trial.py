"""Asks about chains as a run does, but keeps nothing of the answers except what they took."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.inference.metering import MeteredEngine
from megatron_ipt.inference.run import in_order
from megatron_ipt.inference.segments import check_tokens
from megatron_ipt.inference.usage import Meter, Usage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.health import Answer
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain, Synthesizer


@dataclass(frozen=True)
class Asked:
    """What became of a chain.

    Attributes:
        usage: its tokens and answers. Retries and probes of the engine are only in the ledger.
        pairs: that were parsed and kept.
        seconds: from its first request to its last answer, by the clock of the event loop.
    """

    usage: Usage
    pairs: int
    seconds: float


class Trial:
    """Chains through one engine.

    Args:
        config: section ``synthesis``.
        seed: of the recipe.
        prompts: prompt styles, with the engine's tokenizer.
        engine: with the ledger; entered before the first chain.
    """

    def __init__(self, config: SynthesisConfig, seed: int, prompts: StyleMixture, engine: MeteredEngine):
        self._config = config
        self._seed = seed
        self._prompts = prompts
        self.engine = engine
        self._numbers = itertools.count()

    async def ask(self, chain: PlannedChain) -> Asked:
        """Asks about all texts of ``chain``, one after another.

        Raises:
            EngineError: the engine cannot continue.
        """
        number = next(self._numbers)
        clock = asyncio.get_running_loop().time
        meter = Meter()
        # Counts this chain alone, in front of the engine that keeps the ledger.
        counted = MeteredEngine(self.engine, meter)
        synthesizer = Synthesizer(counted, self._config.filters, self._seed, self._prompts.mixed, check_tokens(counted))
        began = clock()
        try:
            outcome = await synthesizer.synthesize(chain, number, _ignore)
        finally:
            self.engine.release(number)
        pairs = sum(len(example.pairs) for made in outcome.chains for example in made.examples)
        return Asked(meter.usage, pairs, clock() - began)

    async def ask_all(self, chains: Sequence[PlannedChain], window: int) -> list[Asked]:
        """Asks about ``chains``, ``window`` at a time; results in their order."""
        return await in_order(self.ask, chains, window)


def _ignore(answer: Answer) -> None:
    return None
