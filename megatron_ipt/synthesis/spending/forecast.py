"""What a run will use and cost, before it is made.

Tokens in are counted on a sample. Tokens out are up to the model: before any answer there is only an upper bound and an
assumption, so :func:`forecast` asks about a sample of the chains, more and more of them until the total is known well
enough. The total follows from the sample by regression on the length of each chain, which is known for all of them;
half of the width of the 95 % interval is 1.96 standard errors of that estimate (Cochran, Sampling Techniques, chapter
7), with the correction for samples that are a large part of the whole.
"""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ipt.inference.usage import Usage
from megatron_ipt.stages.costs import Assumptions
from megatron_ipt.stages.readable import compact
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.shard import planned
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain
from megatron_ipt.synthesis.spending.price import PriceConfig
from megatron_ipt.synthesis.spending.sample import Sample, size_of
from megatron_ipt.synthesis.spending.trial import Asked, Trial

FIRST_SHARE, LAST_SHARE = 0.001, 0.01
"""Of the texts that are asked about: at first, and at most unless that is fewer than ``MOST_TEXTS``."""
FIRST_TEXTS, MOST_TEXTS = 100, 400
WELL_KNOWN = 0.05
"""Half width of the interval, relative to the total, with which no more chains are asked about."""
_GROWTH = 1.6
_NORMAL_95 = 1.96
_WINDOWS_FOR_SPEED = 3
"""The speed of a run shows in a sample of at least this many times the window."""


@dataclass(frozen=True)
class Estimate:
    """A total with half the width of its 95 % interval."""

    total: float
    half_width: float

    @property
    def relative(self) -> float:
        """Half width as a fraction of the total."""
        return self.half_width / self.total if self.total else 0.0


def estimate(values: Sequence[float], sizes: Sequence[float], mean_size: float, count: float) -> Estimate:
    """The sum of a value over ``count`` things, from a random sample.

    Args:
        values: of the things in the sample.
        sizes: something that is known of all things and may go with the value.
        mean_size: over all things.
        count: number of all things.
    """
    n = len(values)
    if not n:
        return Estimate(0.0, 0.0)
    mean, centre = sum(values) / n, sum(sizes) / n
    spread = sum((size - centre) ** 2 for size in sizes)
    slope = 0.0
    if n > 2 and spread:
        slope = sum((size - centre) * (value - mean) for size, value in zip(sizes, values)) / spread
    if n < 3:
        return Estimate(count * mean, math.inf if count > n else 0.0)
    residuals = sum((value - mean - slope * (size - centre)) ** 2 for size, value in zip(sizes, values))
    unseen = max(0.0, 1 - n / count)
    error = count * math.sqrt(unseen * residuals / (n - 2) / n)
    return Estimate(count * (mean + slope * (mean_size - centre)), _NORMAL_95 * error)


async def forecast(
    trial: Trial, sample: Sample, prompts: StyleMixture, price: PriceConfig, window: int
) -> dict[str, Any]:
    """Asks about chains of ``sample``, ``window`` at a time, until the total is known to ``WELL_KNOWN``.

    Returns:
        ``{texts, answers, prompt_tokens, cached_tokens, generated_tokens, tokens_half_width, pairs_per_text, hours,
        asked_texts, shards_read, shards}`` for all chains, with ``cost``, ``cost_half_width`` and ``currency`` if there
        are prices. ``hours`` is None where the sample is too small for the window to say.
    """
    per_chain = sample.total_texts / max(sample.total_chains, 1)
    most = math.ceil(max(MOST_TEXTS, LAST_SHARE * sample.total_texts) / per_chain)
    wanted = math.ceil(max(FIRST_TEXTS, FIRST_SHARE * sample.total_texts) / per_chain)
    asked: list[Asked] = []
    speed = None
    clock = asyncio.get_running_loop().time
    while True:
        more = sample.chains[len(asked) : min(wanted, most)]
        began = clock()
        asked += await trial.ask_all(planned(enumerate(more), prompts), window)
        if len(more) >= _WINDOWS_FOR_SPEED * window:
            speed = len(more) / max(clock() - began, 1e-9)
        weight = _extrapolated(sample, asked, price.cost if price.given else _tokens)
        if weight.relative <= WELL_KNOWN or len(asked) >= min(most, len(sample.chains)):
            break
        wanted = math.ceil(len(asked) * _GROWTH)
    return _summary(sample, asked, price, speed)


def _summary(sample: Sample, asked: list[Asked], price: PriceConfig, speed: float | None) -> dict[str, Any]:
    names = ("answers", "prompt_tokens", "cached_tokens", "generated_tokens")
    totals = {name: _extrapolated(sample, asked, operator.attrgetter(name)) for name in names}
    texts = sum(len(chain.examples) for chain in sample.chains[: len(asked)])
    tokens = _extrapolated(sample, asked, _tokens)
    summary: dict[str, Any] = {
        "texts": round(sample.total_texts),
        **{name: round(value.total) for name, value in totals.items()},
        "tokens_half_width": _rounded(tokens.half_width, 0),
        "pairs_per_text": round(sum(chain.pairs for chain in asked) / max(texts, 1), 2),
        "hours": round(sample.total_chains / speed / 3600, 3) if speed else None,
        "asked_texts": texts,
        "shards_read": sample.shards_read,
        "shards": sample.shards,
    }
    if price.given:
        cost = _extrapolated(sample, asked, price.cost)
        summary["cost"] = _rounded(cost.total, 6)
        summary["cost_half_width"] = _rounded(cost.half_width, 6)
        summary["currency"] = price.currency
    return summary


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _extrapolated(sample: Sample, asked: list[Asked], value: Callable[[Usage], float]) -> Estimate:
    sizes = [size_of(chain) for chain in sample.chains[: len(asked)]]
    return estimate([value(chain.usage) for chain in asked], sizes, sample.mean_size, sample.total_chains)


def _tokens(usage: Usage) -> float:
    return usage.prompt_tokens + usage.generated_tokens


def before_any_answer(sample: Sample, chains: Sequence[PlannedChain], answer_tokens: float) -> Usage:
    """What a run takes in which every answer has ``answer_tokens`` tokens, from ``chains``, those of ``sample``."""
    taken = [_usage_of(chain, round(answer_tokens)) for chain in chains]
    sizes = [size_of(chain) for chain in sample.chains]
    into, out = (
        estimate([getattr(usage, name) for usage in taken], sizes, sample.mean_size, sample.total_chains)
        for name in ("prompt_tokens", "generated_tokens")
    )
    return Usage(prompt_tokens=round(into.total), generated_tokens=round(out.total))


def _usage_of(chain: PlannedChain, answer_tokens: int) -> Usage:
    """As in ``Synthesizer.synthesize``, with answers of which nothing is known but their length."""
    usage = Usage()
    style = chain.by.style
    answer = [style.tokenizer.eos_id] * answer_tokens
    earlier = None
    for example, text in zip(chain.chain.examples, chain.prompts):
        prompt = style.begin(text)
        if earlier is not None:
            longer = style.follow(earlier, answer, "", text)
            prompt = longer if style.fits(longer) else prompt
        if not example.text.strip() or not style.fits(prompt):
            earlier = None
            continue
        usage += Usage(1, 1, 0, 0, len(prompt.ids), 0, answer_tokens)
        earlier = prompt
    return usage


def text_before(sample: Sample, prompts: StyleMixture, price: PriceConfig, before: Usage, most_tokens: int) -> str:
    """One line for the log about what a run will take, before its first request.

    Args:
        before: what earlier answers took; with enough of them, their mean length is expected again.
        most_tokens: of an answer.
    """
    if before.answers >= FIRST_TEXTS:
        answer_tokens, source = before.generated_tokens / before.answers, "as before"
    else:
        assumed = Assumptions()
        answer_tokens, source = assumed.pairs_per_text * assumed.tokens_per_pair, "an assumption"
    answer_tokens = min(answer_tokens, most_tokens)
    chains = planned(enumerate(sample.chains), prompts)
    expected = before_any_answer(sample, chains, answer_tokens)
    line = (
        f"about {sample.total_texts:,.0f} texts, {compact(expected.prompt_tokens)} tokens in and "
        f"{compact(expected.generated_tokens)} out with answers of {answer_tokens:,.0f} tokens ({source})"
    )
    if price.given:
        highest = before_any_answer(sample, chains, most_tokens)
        line += (
            f": {price.text(price.cost(expected))}, at most {price.text(price.cost(highest))}. --forecast asks about a "
            "sample and is more precise"
        )
    return line


def forecast_text(result: dict[str, Any]) -> str:
    """A forecast for people."""
    lines = [
        f"texts        {result['texts']:,}",
        f"answers      {result['answers']:,}",
        f"tokens in    {result['prompt_tokens']:,}, of them cached {result['cached_tokens']:,}",
        f"tokens out   {result['generated_tokens']:,}",
    ]
    if "cost" in result:
        interval = _interval(result["cost"], result["cost_half_width"], 2)
        lines.append(f"cost         {result['cost']:,.2f} {result['currency']}{interval}")
    else:
        tokens = result["prompt_tokens"] + result["generated_tokens"]
        lines.append(f"all tokens   {tokens:,}{_interval(tokens, result['tokens_half_width'], 0)}")
    if result["hours"] is not None:
        lines.append(f"time         {result['hours']:,.2f} hours at the speed of the sample")
    read, shards = result["shards_read"], result["shards"]
    drawn = f" of {read} of {shards} shards" if read < shards else ""
    lines.append(f"pairs        {result['pairs_per_text']:.2f} per text")
    lines.append(f"from the answers about {result['asked_texts']:,} texts{drawn}, which the ledger includes")
    return "\n".join(lines)


def _interval(total: float, half_width: float | None, digits: int) -> str:
    if half_width is None:
        return " (too few answers for an interval)"
    low, high = max(0.0, total - half_width), total + half_width
    return f" (95 % interval {low:,.{digits}f} to {high:,.{digits}f})"
