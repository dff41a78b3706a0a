"""Recipe section ``price`` of stages that ask a model: what a provider bills for tokens, and how much may be spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.inference.usage import Usage

_TOKENS = 1_000_000
"""Prices are per this many tokens."""


@dataclass
class PriceConfig:
    input: float | None = key(None, "Price of a million tokens of prompts.", minimum=0, affects_output=False)
    cached_input: float | None = key(
        None,
        "Price of a million tokens of prompts that the server read from its prefix cache. By default, as input.",
        minimum=0,
        affects_output=False,
    )
    output: float | None = key(None, "Price of a million generated tokens.", minimum=0, affects_output=False)
    currency: str = key("USD", "Of the prices, for people.", affects_output=False)
    limit: float | None = key(
        None,
        "Stop when everything that was ever spent in the folder of this stage costs this much. Answers on their way "
        "are still awaited and paid for; what is finished is kept.",
        minimum=0,
        affects_output=False,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.input is None and self.output is None:
            for name in ("cached_input", "limit"):
                if getattr(self, name) is not None:
                    yield name, "needs the prices input and output"
        elif self.input is None or self.output is None:
            yield "input" if self.input is None else "output", "required with the other price; 0 if it is free"

    @property
    def given(self) -> bool:
        """Whether there are prices."""
        return self.input is not None and self.output is not None

    def cost(self, usage: Usage) -> float:
        """What ``usage`` costs, in :attr:`currency`; 0 without prices. Requests without an answer are left out."""
        if self.input is None or self.output is None:
            return 0.0
        cached_input = self.input if self.cached_input is None else self.cached_input
        return (
            self.input * (usage.prompt_tokens - usage.cached_tokens)
            + cached_input * usage.cached_tokens
            + self.output * usage.generated_tokens
        ) / _TOKENS

    def text(self, cost: float) -> str:
        """``1234.5`` -> ``1,234.50 USD``; small amounts with two significant digits."""
        digits = 2
        while cost and cost < 10 ** (1 - digits) and digits < 8:
            digits += 1
        return f"{cost:,.{digits}f} {self.currency}"
