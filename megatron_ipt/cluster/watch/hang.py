"""Which rank hangs, and where: from the states that ranks write (see ``watched_rank.py``) to one sentence.

In a hang all ranks but one wait in a collective operation for the one that is missing. That one is in no collective
operation, or in a different one, or does not respond at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankState:
    """What one rank is doing.

    Attributes:
        rank, node: which one, and where.
        collective: name of the collective operation that it waits in, or empty.
        place: innermost line of this package, ``trainer.py:120 _train_step``.
        still: seconds for which its stack has not changed.
        silent: seconds since it last wrote its state, by the reader's clock.
    """

    rank: int
    node: str
    collective: str
    place: str
    still: float
    silent: float


def is_stalled(states: Sequence[RankState], limit: float) -> bool:
    """Whether no rank has moved for ``limit`` seconds; False while there are no states."""
    return bool(states) and all(max(state.still, state.silent) >= limit for state in states)


def diagnose(states: Sequence[RankState], interval: float) -> str:
    """One sentence on which rank keeps which others waiting.

    Args:
        interval: seconds between two updates of a state; a rank that misses three is silent.
    """
    if not states:
        return "no rank has reported its state"
    ordered = sorted(states, key=lambda state: state.rank)
    silent = [state for state in ordered if state.silent > 3 * interval]
    answering = [state for state in ordered if state not in silent]
    if silent:
        return _list(silent, "does not answer, last seen", "do not answer, last seen") + _rest(answering)
    outside = [state for state in answering if not state.collective]
    waiting = [state for state in answering if state.collective]
    if outside and waiting:
        return _list(outside, "is in no collective but", "are in no collective but") + _rest(waiting)
    common = Counter((state.collective, state.place) for state in waiting).most_common(1)
    if common:
        different = [state for state in waiting if (state.collective, state.place) != common[0][0]]
        same = [state for state in waiting if state not in different]
        if different:
            return _list(different, "waits apart from the others", "wait apart from the others") + _rest(same)
        return "all ranks wait" + _in(same[0])
    return _list(outside, "is still", "are still")


def _list(states: Sequence[RankState], one: str, several: str, most: int = 4) -> str:
    first = states[0]
    if len(states) == 1:
        return f"rank {first.rank} on {first.node} {one}{_in(first)}"
    shown = ", ".join(f"{state.rank} on {state.node}" for state in states[:most])
    more = f" and {len(states) - most} more" if len(states) > most else ""
    return f"ranks {shown}{more} {several}{_in(first)}"


def _rest(states: Sequence[RankState]) -> str:
    if not states:
        return ""
    who = "rank" if len(states) == 1 else "ranks"
    numbers = ", ".join(str(state.rank) for state in states[:8]) + (" ..." if len(states) > 8 else "")
    return f"; {who} {numbers} {'waits' if len(states) == 1 else 'wait'}{_in(states[0])}"


def _in(state: RankState) -> str:
    where = f" in {state.collective}" if state.collective else ""
    return f"{where} at {state.place}" if state.place else where
