"""Recipe section ``judge``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class JudgeConfig:
    texts: int = key(
        0,
        "Texts whose pairs are judged, spread over all shards. 0: the recipe has no such stage; 1,000 take seconds.",
        minimum=0,
    )
    gold: list[str] = key(
        [],
        "Files with gold pairs of the same texts: SQuAD, or JSON Lines of "
        "{context, tasks: [{question, answer, options?}]}.",
    )
    match: float = key(0.5, "Minimum F1 of a generated and a gold question to count as a match.", minimum=0, maximum=1)
    retrieval_texts: int = key(
        1000, "Texts among which the own text of a pair should be the most similar one.", minimum=1
    )

    def wanted(self) -> bool:
        """Whether the recipe has this stage."""
        return self.texts > 0
