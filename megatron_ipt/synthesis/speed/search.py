"""Which number of chains to try next, and which to choose: a pure function of the speeds measured so far.

Speed grows with the number of chains in flight until the engine is full; beyond that it stays, or falls where prefixes
are evicted from a cache. So the number is multiplied while that pays. Then the gaps between the numbers tried are
halved (on a logarithmic scale) around the smallest that is fast enough, and on the far side of the fastest if speed
falls there, because a peak may lie in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

TOLERANCE = 0.01
"""Measured speeds this close to the best count as equal: the smallest number wins. What is measured is off by about as
much again."""
_GAIN = 0.02
"""Less than this is no reason to try larger numbers."""
_BEYOND = 2.8
"""Two steps: one number without a gain may be bad luck."""
_PROPORTIONAL = 0.8
"""Of the factor by which the number grew: with such a gain in speed, the next step is a large one."""
_SMALL_STEP, _LARGE_STEP = 2, 4
_NARROW = 1.15
"""Gaps between numbers below this factor are not divided further: half of it costs less than the tolerance of 5 %."""
_FALLS = 0.05


def next_number(speeds: Mapping[int, float], first: int, most: int) -> int | None:
    """The number to measure next; None when enough is known.

    Args:
        speeds: measured, by number.
        first: number to begin with.
        most: largest number allowed.
    """
    if not speeds:
        return min(first, most)
    numbers = sorted(speeds)
    larger = _larger(speeds, numbers, most)
    if larger is not None:
        return larger
    enough = chosen(speeds)
    below = max((number for number in numbers if number < enough), default=None)
    if below is None and enough > 1:
        return enough // _SMALL_STEP
    fastest = max(numbers, key=lambda number: speeds[number])
    above = min((number for number in numbers if number > fastest), default=None)
    gaps = [(below, enough)] if below is not None else []
    if above is not None and speeds[above] < (1 - _FALLS) * speeds[fastest]:
        gaps.append((fastest, above))
    for low, high in gaps:
        middle = round(math.sqrt(low * high))
        if high / low > _NARROW and low < middle < high:
            return middle
    return None


def chosen(speeds: Mapping[int, float]) -> int:
    """The smallest number whose speed is within ``TOLERANCE`` of the best."""
    best = max(speeds.values())
    return min(number for number, speed in speeds.items() if speed >= (1 - TOLERANCE) * best)


def _larger(speeds: Mapping[int, float], numbers: list[int], most: int) -> int | None:
    """A number beyond all others, unless they reach far enough beyond the first that is about as fast as any."""
    last = numbers[-1]
    if last >= most:
        return None
    if len(numbers) == 1:
        return min(last * _SMALL_STEP, most)
    fast = min(number for number in numbers if speeds[number] * (1 + _GAIN) >= max(speeds.values()))
    if last >= _BEYOND * fast:
        return None
    proportional = speeds[last] >= _PROPORTIONAL * last / numbers[-2] * speeds[numbers[-2]]
    return min(last * (_LARGE_STEP if proportional else _SMALL_STEP), most)
