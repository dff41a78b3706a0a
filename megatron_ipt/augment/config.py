"""Recipe section ``augment``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class AugmentConfig:
    templates: str = key("default", "Template file (YAML); `default` is the built-in one.")
    extend_templates: list[str] = key([], "Template files to add to `templates`.")
    layout_weights: dict[str, float] = key(
        {},
        "Weights of the layouts plain, dialogue, numbered, examples and next_turn, for documents in which every text "
        "has two or more pairs; a layout that is not listed is not used. Empty: use the weights in the templates.",
    )
    layout_weights_otherwise: dict[str, float] = key(
        {}, "Weights of the layouts plain and dialogue for all other documents. Empty: as in the templates."
    )
    text_last_share: float | None = key(
        None, "Fraction of plain and dialogue documents with texts after their pairs. null: as in the templates.",
        minimum=0, maximum=1,
    )  # fmt: skip
    shuffle_pairs_share: float | None = key(
        None, "Fraction of documents whose pairs are shuffled within each text. null: as in the templates.",
        minimum=0, maximum=1,
    )  # fmt: skip
    no_answer_share: float | None = key(
        None, "Fraction of unanswerable questions whose answer is reworded. null: as in the templates.",
        minimum=0, maximum=1,
    )  # fmt: skip
    workers: int = key(1, "Number of worker processes.", minimum=1, affects_output=False)
