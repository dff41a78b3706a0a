"""Tries numbers of chains in flight (or batch sizes) on a running engine and says which is the best."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from megatron_ipt.errors import StageError
from megatron_ipt.progress import duration
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.speed.measure import Cohort, Pump
from megatron_ipt.synthesis.speed.search import chosen, next_number
from megatron_ipt.synthesis.spending.sample import planned
from megatron_ipt.synthesis.spending.trial import Trial

logger = logging.getLogger(__name__)

_DRIFT = 0.1
"""Of the speed between two measurements with the same value, beyond which the result is not to be trusted."""
_GOLDEN = 0.381966
"""Multiples of it, modulo 1, are far apart: texts that are used again are cut at such places."""


async def tune(
    trial: Trial, chains: Sequence[Chain], prompts: StyleMixture, first: int, most: int, seconds: float
) -> dict[str, Any]:
    """Finds the value of the engine's key ``tuned``.

    Args:
        trial: with an engine that is entered.
        chains: to ask about, in random order.
        prompts: prompt styles of the trial.
        first: value to try first.
        most: largest value to try.
        seconds: after which no further value is tried.

    Returns:
        ``{key, value, texts_per_second, tried, answers, seconds, complete, note, drift}``; ``tried`` has a row
        ``{value, window, texts_per_second, share_of_best, seconds_per_text, chains, relative_error}`` for each value.
        Not ``complete`` if time was up or the engine failed, as ``note`` says. ``drift`` is by what fraction the speed
        with ``value`` was another when it was measured again at the end; None if there was no time for that.

    Raises:
        StageError: the engine failed, or time was up, before there was any result.
    """
    engine = trial.engine
    length = Counter(len(chain.examples) for chain in chains).most_common(1)[0][0]
    pump = Pump(trial.ask, _supply([chain for chain in chains if len(chain.examples) == length], prompts))
    clock = asyncio.get_running_loop().time
    began = clock()
    cohorts: dict[int, Cohort] = {}
    note, again = "", None
    try:
        while (value := next_number(_speeds(cohorts), first, most)) is not None:
            try:
                cohort = await pump.measure(engine.set_load(value), began + seconds)
            except StageError as error:
                if not cohorts:
                    raise
                note = f"stopped at {value}: {error}"
                break
            if cohort is None:
                note = f"time was up after {duration(seconds)}, before {value} was measured"
                break
            cohorts[value] = cohort
            logger.info(
                "synthesis: %s %s: %.3g texts per second", engine.tuned, value, length * _speeds(cohorts)[value]
            )
        if cohorts and not note:
            again = await pump.measure(engine.set_load(chosen(_speeds(cohorts))), began + seconds)
    finally:
        await pump.stop()
    if not cohorts:
        raise StageError(
            f"synthesis: {pump.asked} answers in {duration(seconds)} are too few to measure anything. Lower "
            "synthesis.generation.max_new_tokens or synthesis.chain_length for --tune, or use a faster engine."
        )
    summary = _summary(engine.settings.key(engine.tuned), cohorts, length, pump.asked, clock() - began, note)
    if again is None:
        return summary | {"drift": None}
    work = cohorts[summary["value"]].mean_work
    return summary | {"drift": round(again.speed(work) / cohorts[summary["value"]].speed(work) - 1, 3)}


def _speeds(cohorts: dict[int, Cohort]) -> dict[int, float]:
    """Chains per second by value, all at the same mean length."""
    if not cohorts:
        return {}
    count = sum(len(cohort.chains) for cohort in cohorts.values())
    work = sum(cohort.mean_work * len(cohort.chains) for cohort in cohorts.values()) / count
    return {value: cohort.speed(work) for value, cohort in cohorts.items()}


def _summary(
    key: str, cohorts: dict[int, Cohort], length: int, answers: int, seconds: float, note: str
) -> dict[str, Any]:
    speeds = _speeds(cohorts)
    best = max(speeds.values())
    value = chosen(speeds)
    return {
        "key": key,
        "value": value,
        "texts_per_second": round(length * speeds[value], 3),
        "tried": [
            {
                "value": number,
                "window": cohorts[number].window,
                "texts_per_second": round(length * speeds[number], 3),
                "share_of_best": round(speeds[number] / best, 3),
                "seconds_per_text": round(cohorts[number].mean_seconds / length, 3),
                "chains": len(cohorts[number].chains),
                "relative_error": round(cohorts[number].relative_error, 4),
            }
            for number in sorted(cohorts)
        ],
        "answers": answers,
        "seconds": round(seconds, 1),
        "complete": not note,
        "note": note,
    }


def tune_text(result: dict[str, Any]) -> str:
    """The result for people: a table, and what to put into the recipe."""
    name = result["key"].rpartition(".")[2]
    lines = [f"{name:>12}{'texts/s':>10}{'of best':>9}{'s per text':>12}"]
    for row in result["tried"]:
        mark = "  <-" if row["value"] == result["value"] else ""
        lines.append(
            f"{row['value']:>12}{row['texts_per_second']:>10.4g}{row['share_of_best']:>9.1%}"
            f"{row['seconds_per_text']:>12.3g}{mark}"
        )
    lines += ["", f"{result['answers']:,} answers in {duration(result['seconds'])}"]
    if result["note"]:
        lines.append(f"not finished: {result['note']}")
    if abs(result["drift"] or 0) > _DRIFT:
        change = f"{abs(result['drift']):.0%} {'faster' if result['drift'] > 0 else 'slower'}"
        lines.append(
            f"not reliable: measured again at the end, {result['value']} was {change}. Something else uses the engine or "
            "its machine; repeat this when it is idle"
        )
    lines += ["", "In the recipe:"]
    parts = result["key"].split(".")
    lines += [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    lines[-1] += f" {result['value']}"
    return "\n".join(lines)


def _supply(chains: Sequence[Chain], prompts: StyleMixture) -> Iterator[PlannedChain]:
    """``chains`` again and again. A text that was asked about is in the prefix cache of a server, so it is cut in two
    and begins with its second half from then on, each time at another place."""
    for turn in itertools.count():
        yield from planned([_turned(chain, turn) for chain in chains], prompts)


def _turned(chain: Chain, turn: int) -> Chain:
    if not turn:
        return chain
    examples = []
    for example in chain.examples:
        place = example.text.find(" ", int(len(example.text) * (turn * _GOLDEN % 1)))
        text = f"{example.text[place + 1 :]} {example.text[:place]}" if place > 0 else example.text
        examples.append(replace(example, text=text))
    return replace(chain, examples=examples)
