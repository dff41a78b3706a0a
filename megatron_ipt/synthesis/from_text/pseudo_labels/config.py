"""Settings of the rules."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class PseudoLabelsConfig:
    """Which rules are applied to how many texts, and how many pairs a text gets."""

    max_pairs: int = key(4, "Maximum number of pairs of one text.", minimum=0)
    max_pairs_per_category: int = key(2, "Maximum number of pairs of one category from one text.", minimum=1)
    lead_summary_share: float = key(
        0.5, "Fraction of the documents whose first three sentences may be taken out as the summary of the rest.",
        minimum=0, maximum=1,
    )  # fmt: skip
    gap_sentence_share: float = key(
        0.5, "Fraction of the texts from which the sentence that shares most with the rest may be taken out.",
        minimum=0, maximum=1,
    )  # fmt: skip
    natural_question_share: float = key(
        1.0, "Fraction of the texts whose own questions are asked, with what follows them as the answer.",
        minimum=0, maximum=1,
    )  # fmt: skip
    sentiment_share: float = key(
        1.0, "Fraction of the texts whose sentiment is asked for, where a lexicon finds it clear.",
        minimum=0, maximum=1,
    )  # fmt: skip
    topic_share: float = key(
        1.0, "Fraction of the texts whose topic is asked for, where their id is a URL that names it.",
        minimum=0, maximum=1,
    )  # fmt: skip
    balance_labels: bool = key(
        True, "Drop surplus sentiment labels, chosen by a hash of the id, so that both are equally frequent in a shard."
    )
    max_text_characters: int = key(
        16_000, "Longer texts get no pairs. Only matters if passage_characters is above it.", minimum=1
    )
