"""Recipe section ``augment``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class AugmentConfig:
    templates: str = key("default", "Template file (YAML) to use in place of the built-in one; default: built-in.")
    extend_templates: list[str] = key([], "Template files whose entries are added to those of `templates`.")
    layout_weights: dict[str, float] = key(
        {},
        "Weights of the layouts plain, dialogue, numbered, examples and next_turn, for documents in which every text "
        "has two or more pairs; a layout left out is not used. Empty: as the templates say.",
    )
    layout_weights_otherwise: dict[str, float] = key(
        {}, "Weights of the layouts plain and dialogue for all other documents. Empty: as the templates say."
    )
    text_last_share: float | None = key(
        None, "Share of plain and dialogue documents whose texts follow their pairs. Empty: as the templates say.",
        minimum=0, maximum=1,
    )  # fmt: skip
    shuffle_pairs_share: float | None = key(
        None, "Share of documents whose pairs are shuffled within their text. Empty: as the templates say.",
        minimum=0, maximum=1,
    )  # fmt: skip
    no_answer_share: float | None = key(
        None, "Share of unanswerable questions whose answer gets a varied wording. Empty: as the templates say.",
        minimum=0, maximum=1,
    )  # fmt: skip
    workers: int = key(1, "Processes over shards.", minimum=1, affects_output=False)
