"""Settings of the miner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class MinedConfig:
    """How many pairs are mined from a text, and of what kind."""

    max_pairs: int = key(6, "Most pairs mined from one text, a completion and a title pair included.", minimum=0)
    max_pairs_per_category: int = key(2, "Most pairs of one category from one text.", minimum=1)
    title_share: float = key(0.5, "Share of the texts with a title that are asked for it.", minimum=0, maximum=1)
    completion_share: float = key(
        0.2, "Share of the texts long enough for it whose ending becomes a completion pair.", minimum=0, maximum=1
    )
    min_shown_characters: int = key(300, "Least characters a text keeps when its ending is cut off.", minimum=1)
    min_completion_characters: int = key(80, "Least characters of the ending to be completed.", minimum=1)
    max_completion_characters: int = key(800, "Most characters of the ending to be completed.", minimum=1)
    options_share: float = key(
        0.4, "Share of the pairs with enough values of one type in the text that become multiple choice.",
        minimum=0, maximum=1,
    )  # fmt: skip
    min_sentence_characters: int = key(30, "Sentences shorter than this are not asked about.", minimum=1)
    max_sentence_characters: int = key(400, "Sentences longer than this are not asked about.", minimum=1)
    window_characters: int = key(
        16_000,
        "Only this many characters at the end of a text are mined: pairs stand after the text, and what is further "
        "away than a model can see teaches nothing.",
        minimum=1,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_completion_characters > self.max_completion_characters:
            yield "min_completion_characters", "is above max_completion_characters: no ending could be cut off"
        if self.min_sentence_characters > self.max_sentence_characters:
            yield "min_sentence_characters", "is above max_sentence_characters: no sentence could be asked about"
