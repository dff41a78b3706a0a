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
from megatron_ipt.synthesis.from_text.prompted.shard import planned
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.speed.measure import Cohort, Pump
from megatron_ipt.synthesis.speed.search import chosen, next_number
from megatron_ipt.synthesis.spending.trial import Trial

logger = logging.getLogger(__name__)

_DRIFT = 0.1
"""Of the speed between two measurements with the same value, beyond which they are not to be trusted."""
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
        ``{value, window, texts_per_second, share_of_best, seconds_per_text, chains, measurements}`` for each value. Not
        ``complete`` if time was up or the engine failed, as ``note`` says. ``drift`` is by what fraction the speed with
        ``value`` was another when it was measured again; None if there was no time for that.

    Raises:
        StageError: the engine failed, or time was up, before there was any result.
    """
    engine = trial.engine
    length = Counter(len(chain.examples) for chain in chains).most_common(1)[0][0]
    pump = Pump(trial.ask, _supply([chain for chain in chains if len(chain.examples) == length], prompts))
    clock = asyncio.get_running_loop().time
    began = clock()
    cohorts: dict[int, list[Cohort]] = {}
    note = ""
    try:
        while (value := _next(cohorts, first, most)) is not None:
            try:
                cohort = await pump.measure(engine.set_load(value), began + seconds)
            except StageError as error:
                if not cohorts:
                    raise
                note = f"stopped at {value}: {error}"
                break
            if cohort is None:
                what = "was measured again" if value in cohorts else "was measured"
                note = f"time was up after {duration(seconds)}, before {value} {what}"
                break
            cohorts.setdefault(value, []).append(cohort)
            speed = length * cohort.speed(_mean_work(cohorts))
            logger.info("synthesis: %s %s: %.3g texts per second", engine.tuned, value, speed)
    finally:
        await pump.stop()
    if not cohorts:
        raise StageError(
            f"synthesis: {pump.asked} answers in {duration(seconds)} are too few to measure anything. Lower "
            "synthesis.generation.max_new_tokens or synthesis.chain_length for --tune, or use a faster engine."
        )
    return _summary(engine.settings.key(engine.tuned), cohorts, length, pump.asked, clock() - began, note)


def _next(cohorts: dict[int, list[Cohort]], first: int, most: int) -> int | None:
    """What to measure next. The best of many measurements is often the luckiest one, so the fastest number and the one
    to choose are measured again, and a third time if the two differ; what is fastest may change with that."""
    speeds = _speeds(cohorts)
    number = next_number(speeds, first, most)
    if number is not None:
        return number
    for number in (max(speeds, key=lambda value: speeds[value]), chosen(speeds)):
        if len(cohorts[number]) < 2 or (len(cohorts[number]) < 3 and abs(_drift(cohorts[number])) > _DRIFT):
            return number
    return None


def _mean_work(cohorts: dict[int, list[Cohort]]) -> float:
    """Of a chain, over all cohorts."""
    all_of_them = [cohort for several in cohorts.values() for cohort in several]
    count = sum(len(cohort.chains) for cohort in all_of_them)
    return sum(cohort.mean_work * len(cohort.chains) for cohort in all_of_them) / count


def _speeds(cohorts: dict[int, list[Cohort]]) -> dict[int, float]:
    """Chains per second by value, all at the same mean work; of several cohorts, those in the mean of their times."""
    if not cohorts:
        return {}
    work = _mean_work(cohorts)
    return {
        value: len(several) / sum(1 / cohort.speed(work) for cohort in several) for value, several in cohorts.items()
    }


def _drift(several: list[Cohort]) -> float:
    """By what fraction the speed was another in the last measurement than in the first."""
    work = several[0].mean_work
    return several[-1].speed(work) / several[0].speed(work) - 1


def _summary(
    key: str, cohorts: dict[int, list[Cohort]], length: int, answers: int, seconds: float, note: str
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
                "window": cohorts[number][0].window,
                "texts_per_second": round(length * speeds[number], 3),
                "share_of_best": round(speeds[number] / best, 3),
                "seconds_per_text": round(cohorts[number][0].window / speeds[number] / length, 3),
                "chains": sum(len(cohort.chains) for cohort in cohorts[number]),
                "measurements": len(cohorts[number]),
            }
            for number in sorted(cohorts)
        ],
        "answers": answers,
        "seconds": round(seconds, 1),
        "complete": not note,
        "note": note,
        "drift": round(_drift(cohorts[value]), 3) if len(cohorts[value]) > 1 else None,
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
            f"not reliable: measured again, {result['value']} was {change}. Something else uses the engine or its "
            "machine; repeat this when it is idle"
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
        yield from planned(enumerate(_turned(chain, turn) for chain in chains), prompts)


def _turned(chain: Chain, turn: int) -> Chain:
    if not turn:
        return chain
    examples = []
    for example in chain.examples:
        place = example.text.find(" ", int(len(example.text) * (turn * _GOLDEN % 1)))
        text = f"{example.text[place + 1 :]} {example.text[:place]}" if place > 0 else example.text
        examples.append(replace(example, text=text))
    return replace(chain, examples=examples)
