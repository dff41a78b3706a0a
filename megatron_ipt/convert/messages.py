"""How messages about conversions list tensors."""

from __future__ import annotations

_MOST = 12


def listed(names: list[str]) -> str:
    """``a, b and 3 more tensors``; ``none`` for an empty list."""
    more = f" and {len(names) - _MOST} more tensors" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more or "none"
