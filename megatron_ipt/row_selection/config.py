"""Recipe sections ``row_scoring`` and ``row_selection``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from megatron_ipt.config import key
from megatron_ipt.selection.config import ScorerConfig, ScoringConfig, SelectionConfig


@dataclass
class RowScoringConfig(ScoringConfig):
    seq_length: int = key(
        1024,
        "Tokens of a row that are predicted: training.data.seq_length. Rows of a stage that packs them stay as they "
        "are.",
        minimum=1,
    )
    rows_per_shard: int = key(4096, "Rows that are scored between two points of resumption.", minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        plain = ScorerConfig()
        for name, scorer in self.scorers.items():
            for field in ("prepend_bos", "append_eod", "trained_on"):
                if getattr(scorer, field) != getattr(plain, field):
                    yield f"scorers.{name}.{field}", "has no effect on rows, which are scored as they are; remove it"
            longest = scorer.seq_length
            if longest is not None and longest < self.seq_length:
                yield (
                    f"scorers.{name}.seq_length",
                    f"{longest} would cut rows of {self.seq_length} tokens, and training does not; remove it",
                )


@dataclass
class RowSelectionConfig(SelectionConfig):
    SECTION: ClassVar[str] = "row_selection"
    SCORED_BY: ClassVar[str] = "row_scoring"
    SCORE: ClassVar[str] = "megatron-ipt score-rows"
    UNIT: ClassVar[str] = "row"

    seq_length: int = key(
        1024,
        "Tokens of a row, as row_scoring.seq_length; that of the scores is used where there are some.",
        minimum=1,
    )
    eod_mask: bool = key(
        True, "Rows that are cut here: do not train on tokens that follow an end-of-document token, as the papers do."
    )
