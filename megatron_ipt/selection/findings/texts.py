"""What is wrong with texts that a selection likes best, as far as it shows in the texts themselves."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

_WORDS = 4
_REPETITIVE = 0.5


def repeated_share(text: str) -> float:
    """Share of the sequences of four words that occurred before in the text; 0 for a text that has none."""
    words = text.split()
    sequences = [tuple(words[place : place + _WORDS]) for place in range(len(words) - _WORDS + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def warnings_about_texts(samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[str]:
    """Warnings about the texts at the top; empty if there is nothing to say."""
    shares = [repeated_share(sample["text"]) for sample in samples.get("top", ())]
    if not shares or statistics.median(shares) <= _REPETITIVE:
        return []
    return [
        f"the best texts mostly repeat themselves (at the top, {statistics.median(shares):.0%} of the sequences of "
        "four words occurred before): a model that can copy finds repetition easy, a small one does not. Remove such "
        "texts first"
    ]
