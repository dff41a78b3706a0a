"""What growing a taxonomy takes: calls, tokens, hours and money, before the first request and at any time after it.

The calls follow from the taxonomy and the settings once it is known how many subjects a discipline has, how many tries
a conversion takes and how much is lost. Where disciplines are finished, that and the length of prompts and answers are
measured on them; before, they are assumed, from the paper (arXiv:2402.13064, section 2) where it says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.files import iter_lines
from megatron_ipt.inference.usage import Usage
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.progress import TIME_FORMAT, duration
from megatron_ipt.stages.readable import compact
from megatron_ipt.synthesis.from_taxonomy import counts as counting
from megatron_ipt.synthesis.from_taxonomy.asking import (
    ANSWERS,
    LEVELS,
    LISTS,
    QUESTIONS,
    SESSIONS,
    SUBJECTS,
    SYLLABI,
    Call,
    PromptMaker,
)
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.journal import replies_in
from megatron_ipt.synthesis.from_taxonomy.monitor import METRICS
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import (
    ANSWER,
    QUESTION,
    SUBJECTS as SUBJECTS_PROMPT,
    SUBJECTS_AS_JSON,
    SYLLABUS,
    SYLLABUS_AS_JSON,
)
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import Discipline, DisciplineTask
from megatron_ipt.synthesis.spending.price import PriceConfig

_SUBJECTS_PER_LIST = 15.0
"""Distinct ones: the paper has 100 to 200 subjects from ten lists."""
_GENERATED = {LISTS: 600.0, SUBJECTS: 700.0, SYLLABI: 1500.0, SESSIONS: 900.0, QUESTIONS: 120.0, ANSWERS: 330.0}
"""Tokens of an answer, before any was measured."""
_TRIES = 1.05
_TOGETHER_SECONDS = 60.0
"""Processes whose last lines of metrics lie no further apart worked side by side."""
_CALLS, _IN, _CACHED, _OUT = FIGURES = ("calls", "prompt_tokens", "cached_tokens", "generated_tokens")


@dataclass(frozen=True)
class Rates:
    """What a discipline takes.

    Attributes:
        tries_of_subjects: conversions per list.
        subjects: per discipline.
        tries_of_sessions: conversions per subject.
        drawn: questions asked, as a fraction of those wanted.
        answered: of the questions.
        kept: pairs per answer.
        tokens: of a call, by level and figure.
    """

    tries_of_subjects: float
    subjects: float
    tries_of_sessions: float
    drawn: float
    answered: float
    kept: float
    tokens: Mapping[str, Mapping[str, float]]

    def calls(self, config: TaxonomyConfig, discipline: Discipline) -> dict[str, float]:
        """Calls of ``discipline`` by level."""
        lists = float(config.lists_per_discipline)
        questions = self.subjects * config.questions_of(discipline.weight) * self.drawn
        return {
            LISTS: lists,
            SUBJECTS: lists * self.tries_of_subjects,
            SYLLABI: self.subjects,
            SESSIONS: self.subjects * self.tries_of_sessions,
            QUESTIONS: questions,
            ANSWERS: questions * self.answered,
        }


def plan(
    config: TaxonomyConfig,
    directory: Path | None,
    tasks: Sequence[DisciplineTask],
    makers: tuple[PromptMaker, PromptMaker] | None,
    spent: float = 0.0,
) -> dict[str, Any]:
    """What all of ``tasks`` take, and what is left.

    Args:
        config: section ``taxonomy``.
        directory: folder of the stage, with the markers of finished disciplines and the journals of others; None to
            look at nothing.
        tasks: disciplines with their files.
        makers: of the prompts, for their length; None to estimate it.
        spent: on all requests so far, those of discarded output included.

    Returns:
        ``levels``: calls and tokens by level, ``total`` and ``left``: their sums with ``cost`` (without cached tokens,
        as long as nothing is measured), ``hours_left``, ``pairs``, ``disciplines``, ``basis`` and
        ``calls_by_discipline``.
    """
    records = {task.discipline: _marker(directory, task) for task in tasks}
    finished = {discipline: record for discipline, record in records.items() if record is not None}
    measured = counting.added(finished.values())
    rates = _measured(config, finished, measured) if measured["pairs"] else _assumed(config, tasks, makers)
    levels = {level: dict.fromkeys(FIGURES, 0.0) for level in LEVELS}
    by_discipline: dict[str, int] = {}
    pairs = float(measured["pairs"])
    for discipline, record in records.items():
        if record is not None:
            for level, figures in record["calls"].items():
                for name in FIGURES:
                    levels[level][name] += figures.get(name, 0)
            by_discipline[discipline.path] = sum(figures.get(_CALLS, 0) for figures in record["calls"].values())
            continue
        calls = rates.calls(config, discipline)
        pairs += calls[ANSWERS] * rates.kept
        by_discipline[discipline.path] = round(sum(calls.values()))
        for level, number in calls.items():
            levels[level][_CALLS] += number
            for name, tokens in rates.tokens[level].items():
                levels[level][name] += number * tokens
    rounded = {level: {name: round(value) for name, value in figures.items()} for level, figures in levels.items()}
    total: dict[str, float] = {name: sum(figures[name] for figures in rounded.values()) for name in FIGURES}
    done = {level: dict.fromkeys(FIGURES, 0) for level in LEVELS}
    for task in tasks:
        record = records[task.discipline]
        for level, figures in (record["calls"] if record is not None else _journalled(directory, task)).items():
            for name in FIGURES:
                done[level][name] += figures.get(name, 0)
    ahead = {level: {name: max(0, rounded[level][name] - done[level][name]) for name in FIGURES} for level in LEVELS}
    left: dict[str, float] = {name: sum(figures[name] for figures in ahead.values()) for name in FIGURES}
    if config.price.given or config.answers.price.given:
        total["cost"], left["cost"] = round(_cost(config, rounded), 6), round(_cost(config, ahead), 6)
    speed = _speed(directory)
    return {
        "disciplines": len(records),
        "finished": len(finished),
        "basis": f"{len(finished)} finished disciplines" if measured["pairs"] else "assumptions",
        "pairs": round(pairs),
        "levels": rounded,
        "total": total,
        "left": left,
        "spent": round(spent, 6),
        "currency": config.price.currency,
        "tokens_per_second": speed,
        "hours_left": None if speed is None else left[_OUT] / speed / 3600,
        "calls_by_discipline": by_discipline,
    }


def expected_calls(result: Mapping[str, Any], disciplines: Sequence[Discipline]) -> int:
    """Calls of ``disciplines`` in a result of :func:`plan`."""
    return sum(result["calls_by_discipline"][discipline.path] for discipline in disciplines)


def plan_text(result: Mapping[str, Any]) -> str:
    """A result of :func:`plan` for people."""
    total, left = result["total"], result["left"]
    names = ("calls", "tokens in", "cached", "tokens out")
    lines = [
        f"{result['disciplines']} disciplines, {result['finished']} of them finished: about "
        f"{compact(result['pairs'])} pairs from {total[_CALLS]:,} calls, {compact(total[_IN])} tokens in and "
        f"{compact(total[_OUT])} out ({result['basis']})",
        "",
        f"{'':<20}" + "".join(f"{name:>12}" for name in names),
    ]
    rows = [*result["levels"].items(), ("total", total), ("left", left)]
    lines += [f"{label:<20}" + "".join(f"{compact(row[name]):>12}" for name in FIGURES) for label, row in rows]
    hours = result["hours_left"]
    time = (
        "unknown before the first answers"
        if hours is None
        else f"{duration(hours * 3600)} at {compact(result['tokens_per_second'])} tokens/s out, as measured"
    )
    lines += ["", f"time left           {time}"]
    if "cost" in total:
        price = PriceConfig(currency=result["currency"])
        lines.append(f"cost                {price.text(total['cost'])}, {price.text(left['cost'])} of it left")
        if result["spent"]:
            lines.append(f"spent so far        {price.text(result['spent'])}, discarded output included")
    else:
        lines.append("cost                set taxonomy.price to see it")
    return "\n".join(lines)


def _measured(config: TaxonomyConfig, finished: Mapping[Discipline, Any], total: Mapping[str, Any]) -> Rates:
    calls = {level: total["calls"].get(level, {}) for level in LEVELS}
    number = {level: max(1, figures.get(_CALLS, 0)) for level, figures in calls.items()}
    subjects = max(1, total["subjects"])
    wanted = sum(record["subjects"] * config.questions_of(each.weight) for each, record in finished.items())
    return Rates(
        tries_of_subjects=number[SUBJECTS] / number[LISTS],
        subjects=total["subjects"] / len(finished),
        tries_of_sessions=number[SESSIONS] / subjects,
        drawn=number[QUESTIONS] / max(1, wanted),
        answered=number[ANSWERS] / number[QUESTIONS],
        kept=total["pairs"] / number[ANSWERS],
        tokens={level: {name: calls[level].get(name, 0) / number[level] for name in FIGURES[1:]} for level in LEVELS},
    )


def _assumed(
    config: TaxonomyConfig, tasks: Sequence[DisciplineTask], makers: tuple[PromptMaker, PromptMaker] | None
) -> Rates:
    limits = dict.fromkeys(LEVELS, config.generation.max_new_tokens)
    limits[ANSWERS] = config.generation_of_answers().max_new_tokens
    out = {level: min(_GENERATED[level], float(limits[level])) for level in LEVELS}
    subjects = config.lists_per_discipline * _SUBJECTS_PER_LIST
    length = _lengths(tasks[0].discipline, makers)
    inserted = {
        LISTS: 0.0,
        SUBJECTS: out[LISTS],
        SYLLABI: 30.0,
        SESSIONS: out[SYLLABI],
        QUESTIONS: out[SYLLABI] + 30.0,
        ANSWERS: out[QUESTIONS],
    }
    return Rates(
        tries_of_subjects=_TRIES,
        subjects=min(subjects, config.max_subjects or subjects),
        tries_of_sessions=_TRIES,
        drawn=1.0,
        answered=1.0,
        kept=1.0,
        tokens={level: {_IN: length[level] + inserted[level], _CACHED: 0.0, _OUT: out[level]} for level in LEVELS},
    )


def _lengths(discipline: Discipline, makers: tuple[PromptMaker, PromptMaker] | None) -> dict[str, float]:
    """Tokens of prompts, without what earlier answers add to them."""
    if makers is None:
        return dict.fromkeys(LEVELS, 150.0)
    values = {
        "field": discipline.field, "sub_field": discipline.sub_field, "discipline": discipline.name,
        "subject": discipline.name, "level": "beginner", "subtopics": "", "syllabus": "", "session": "",
        "concepts": "", "question": "",
    }  # fmt: skip
    calls = (
        Call("", LISTS, SUBJECTS_PROMPT, values),
        Call("", SUBJECTS, SUBJECTS_AS_JSON, values, (SUBJECTS_PROMPT, "")),
        Call("", SYLLABI, SYLLABUS, values),
        Call("", SESSIONS, SYLLABUS_AS_JSON, values, (SYLLABUS, "")),
        Call("", QUESTIONS, QUESTION, values),
        Call("", ANSWERS, ANSWER, values),
    )
    return {call.level: float(makers[call.level == ANSWERS].count(call)) for call in calls}


def _cost(config: TaxonomyConfig, levels: Mapping[str, Mapping[str, int]]) -> float:
    cost = 0.0
    for level, figures in levels.items():
        price = config.answers.price if level == ANSWERS and config.second_model else config.price
        cost += price.cost(
            Usage(
                prompt_tokens=figures[_IN],
                cached_tokens=min(figures[_CACHED], figures[_IN]),
                generated_tokens=figures[_OUT],
            )
        )
    return cost


def _marker(directory: Path | None, task: DisciplineTask) -> dict[str, Any] | None:
    return None if directory is None else ShardMarkers(directory).counts(task.name)


def _journalled(directory: Path | None, task: DisciplineTask) -> dict[str, dict[str, int]]:
    """What the unfinished ``task`` has taken so far."""
    return {} if directory is None else counting.calls_in(replies_in(task.journal_path(directory)))


def _speed(directory: Path | None) -> float | None:
    """Generated tokens per second of a process, times the number of processes that were at work last."""
    seconds = tokens = 0.0
    ends = []
    for path in directory.glob(f"{METRICS}*.jsonl") if directory is not None else ():
        last: dict[str, Any] = {}
        for line in iter_lines(path):
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                # The last line of a process that was killed.
                continue
            if record["seconds"] < last.get("seconds", 0.0):
                seconds, tokens = seconds + last["seconds"], tokens + last.get(_OUT, 0)
            last = record
        if last:
            seconds, tokens = seconds + last["seconds"], tokens + last.get(_OUT, 0)
            ends.append(datetime.strptime(last["time"], TIME_FORMAT).timestamp())
    together = sum(max(ends) - end < _TOGETHER_SECONDS for end in ends)
    return tokens / seconds * together if tokens and seconds else None
