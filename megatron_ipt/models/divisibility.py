"""The nearest values that would do: half of a good error message about sizes that must divide one another."""

from __future__ import annotations

_TRIED = 100_000
"""Numbers tried on each side; beyond them 1 and the number itself are named."""


def multiples(value: int, of: int) -> str:
    """``multiples(10, of=4)`` is ``"8 or 12"``."""
    below = value // of * of
    return " or ".join(str(number) for number in (below, below + of) if number)


def divisors(number: int, near: int) -> str:
    """``divisors(4, near=3)`` is ``"2 or 4"``."""
    if number < 1:
        return ""
    start = min(near - 1, number)
    below = (candidate for candidate in range(start, max(0, start - _TRIED), -1) if number % candidate == 0)
    above = (candidate for candidate in range(near + 1, min(number, near + _TRIED) + 1) if number % candidate == 0)
    found = next(below, 1 if near > 1 else 0), next(above, number if number > near else 0)
    return " or ".join(str(divisor) for divisor in found if divisor)
