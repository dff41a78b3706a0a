"""What is counted of a discipline and, added up, of all: kept in its marker, shown by log, report and plan.

Counts are plain JSON: numbers, and mappings of names to counts. Adding them up adds the numbers under equal names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_ipt.synthesis.from_taxonomy.asking import SESSIONS, SUBJECTS
from megatron_ipt.synthesis.from_taxonomy.growing import REFUSED
from megatron_ipt.synthesis.from_taxonomy.journal import Reply
from megatron_ipt.synthesis.from_taxonomy.outline.repeats import EXACT, NEAR
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import REFUSED_CALLS

NEVER = "never"
"""In ``json_tries``: conversions that no try succeeded at."""
_NUMBERS = (
    "disciplines", "lists", "subjects", "merged_subjects", "syllabi", "sessions", "draws_wanted", "draws_possible",
    "draws", "questions", "pairs", "texts", REFUSED_CALLS,
)  # fmt: skip
_GROUPS = ("splits", "lost", "json_tries", "unusable_objects", "calls", "saturation", "levels")


def empty() -> dict[str, Any]:
    """Counts of nothing."""
    return {**dict.fromkeys(_NUMBERS, 0), **{name: {} for name in _GROUPS}}


def added(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums of counts."""
    total = empty()
    for record in records:
        _add(total, record)
    return total


def _add(total: dict[str, Any], record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        elif isinstance(value, (int, float)):
            total[name] = total.get(name, 0) + value


def calls_in(replies: Iterable[tuple[str, Reply]]) -> dict[str, dict[str, int]]:
    """Calls and tokens by level, and how many answers the token limit or a loop ended."""
    levels: dict[str, Counter[str]] = {}
    for level, reply in replies:
        counts = levels.setdefault(level, Counter())
        if reply.unasked:
            counts["unasked"] += 1
            continue
        counts["calls"] += 1
        counts["refused"] += bool(reply.refused)
        counts["loops"] += reply.loop
        counts["cut_off"] += not (reply.finished or reply.loop)
        for name in ("prompt_tokens", "cached_tokens", "generated_tokens"):
            counts[name] += getattr(reply, name)
    return {level: dict(counts) for level, counts in levels.items()}


def reason_of(lost: str) -> str:
    """A reason to count by: without what is particular to one case."""
    return REFUSED if lost.startswith(REFUSED) else lost


def saturation(repeated: Sequence[bool]) -> dict[str, dict[str, int]]:
    """Questions of a subject, and how many of them repeat an earlier one, among its first 1, 2, 4, 8, ..."""
    marks: dict[str, dict[str, int]] = {}
    first = 1
    while first <= len(repeated):
        marks[str(first)] = {"questions": first, "repeated": sum(repeated[:first])}
        first *= 2
    return marks


def summary(total: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that follow from the counts of all disciplines."""
    tries = total["json_tries"]
    return {
        "json_success": {
            level: sum(count for attempt, count in counts.items() if attempt != NEVER) / max(1, sum(counts.values()))
            for level, counts in tries.items()
            if level in (SUBJECTS, SESSIONS)
        },
        "repeated_questions": sum(
            count for reason, count in total["lost"].items() if reason.endswith((f": {EXACT}", f": {NEAR}"))
        ),
    }
