"""The values nearest to a wrong one that would do: half of a good error message about sizes that must divide."""

from __future__ import annotations


def multiples(value: int, of: int) -> str:
    """``multiples(10, of=4)`` is ``"8 or 12"``."""
    below = value // of * of
    return " or ".join(str(number) for number in (below, below + of) if number)


def divisors(number: int, near: int) -> str:
    """``divisors(4, near=3)`` is ``"2 or 4"``."""
    candidates = [candidate for candidate in range(1, number + 1) if number % candidate == 0]
    below = [candidate for candidate in candidates if candidate < near][-1:]
    above = [candidate for candidate in candidates if candidate > near][:1]
    return " or ".join(map(str, below + above))
