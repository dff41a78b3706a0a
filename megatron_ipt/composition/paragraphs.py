"""Documents as paragraphs: lines that are joined while they stay short.

The rule of PICL (arXiv:2305.09137, section 3.1, and its code): a paragraph grows by the next line while the sum of
their tokens, two more for each line break, stays below a limit. After a line that ends in a colon or a question mark,
the next one joins whatever its length: a question without its answer is no task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

LINE_BREAK = 2
"""Tokens that a line counts besides its own."""
_OPEN = (":", "?")


def join_lines(lines: Sequence[str], tokens: Sequence[int], limit: int) -> list[list[int]]:
    """Places of the lines of each paragraph.

    Args:
        lines: without empty ones.
        tokens: of each line.
        limit: a paragraph stays below this, unless it is one line or its last line but one asks for the next.
    """
    paragraphs: list[list[int]] = []
    total = 0
    for place, line_tokens in enumerate(tokens):
        size = line_tokens + LINE_BREAK
        before = paragraphs[-1] if paragraphs else []
        if before and (total + size < limit or lines[before[-1]].endswith(_OPEN)):
            before.append(place)
            total += size
        else:
            paragraphs.append([place])
            total = size
    return paragraphs


def paragraphs_of(texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]], limit: int) -> list[list[str]]:
    """Paragraphs of each text. Within one, lines are joined by blanks: a line break ends a paragraph of a context.

    Args:
        encode: gives the ids of texts, for their number.
        limit: see :func:`join_lines`.
    """
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
    flat = [line for each in lines for line in each]
    sizes = iter([len(ids) for ids in encode(flat)] if flat else [])
    made = []
    for each in lines:
        joined = join_lines(each, [next(sizes) for _ in each], limit)
        made.append([" ".join(each[place] for place in places) for places in joined])
    return made
