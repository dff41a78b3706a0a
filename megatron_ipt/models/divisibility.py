"""The nearest values that would do: half of a good error message about sizes that must divide one another."""

from __future__ import annotations

from math import isqrt


def multiples(value: int, of: int) -> str:
    """``multiples(10, of=4)`` is ``"8 or 12"``."""
    below = value // of * of
    return " or ".join(str(number) for number in (below, below + of) if number)


def divisors(number: int, near: int) -> str:
    """``divisors(4, near=3)`` is ``"2 or 4"``."""
    small = [candidate for candidate in range(1, isqrt(max(number, 0)) + 1) if number % candidate == 0]
    candidates = sorted({*small, *(number // candidate for candidate in small)})
    below = [candidate for candidate in candidates if candidate < near][-1:]
    above = [candidate for candidate in candidates if candidate > near][:1]
    return " or ".join(map(str, below + above))
