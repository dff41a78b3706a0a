"""Settings of the miner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class MinedConfig:
    """How many pairs are mined from a text, and of what kind."""

    max_pairs: int = key(
        6, "Maximum number of pairs mined from one text, including a completion and a title pair.", minimum=0
    )
    max_pairs_per_category: int = key(2, "Maximum number of pairs of one category from one text.", minimum=1)
    title_share: float = key(
        0.5, "Fraction of the texts with a title that get a question about it.", minimum=0, maximum=1
    )
    completion_share: float = key(
        0.2, "Fraction of the long enough texts whose ending becomes a completion pair.", minimum=0, maximum=1
    )
    min_shown_characters: int = key(
        300, "Minimum number of characters that a text keeps when its ending is cut off.", minimum=1
    )
    min_completion_characters: int = key(80, "Minimum length of the ending to complete, in characters.", minimum=1)
    max_completion_characters: int = key(800, "Maximum length of the ending to complete, in characters.", minimum=1)
    options_share: float = key(
        0.4, "Fraction of the pairs that become multiple choice, of those with enough values of one type in the text.",
        minimum=0, maximum=1,
    )  # fmt: skip
    min_sentence_characters: int = key(30, "Sentences shorter than this are not asked about.", minimum=1)
    max_sentence_characters: int = key(400, "Sentences longer than this are not asked about.", minimum=1)
    window_characters: int = key(
        16_000,
        "Only this many characters at the end of a text are mined: pairs follow the text, and a model learns nothing "
        "from pairs about text outside its context.",
        minimum=1,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_completion_characters > self.max_completion_characters:
            yield "min_completion_characters", "is above max_completion_characters: no ending could be cut off"
        if self.min_sentence_characters > self.max_sentence_characters:
            yield "min_sentence_characters", "is above max_sentence_characters: no sentence could be asked about"
