"""Which prompts are continued together.

Rows that step together have read equally many tokens. Prompts of unequal length can do so as well: all read as many
tokens as the shortest has, and then those of longer prompts take their own next token where others take a new one. A
group therefore holds prompts whose lengths differ by little.
"""

from __future__ import annotations

from collections.abc import Sequence

_WIDEST = 32
"""Tokens by which the longest prompt of a group exceeds the shortest: each is a step of one token instead of a part of
reading the prompt at once."""


def group_by_length(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices of the prompts of each group, the longest prompts first, at most ``rows`` in a group.

    Args:
        lengths: of the prompts, in tokens.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not groups or len(groups[-1]) == rows or lengths[groups[-1][0]] - lengths[index] > _WIDEST:
            groups.append([])
        groups[-1].append(index)
    return groups
