"""The rules by which documents are kept, as a table: what each reads, in a few words."""

from __future__ import annotations

from dataclasses import dataclass

UNITS_OF_SHARE = ("documents", "tokens", "bytes")
"""What a share may be a share of."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        help: in a few words.
        score: what its score is, for axes and tables; ``{per}`` stands for what log-likelihoods are divided by.
        noisy: whether noise is added to the scores before documents are ordered.
    """

    help: str
    score: str
    noisy: bool = False


RULES: dict[str, Rule] = {
    "difference": Rule(
        "documents that the teacher finds much likelier than the reference does (MiniPLM)",
        "log-likelihood under the teacher less that under the reference, in nats per {per}",
    ),
    "top_k": Rule("documents that one scorer finds likeliest", "log-likelihood under the scorer, in nats per {per}"),
    "gumbel": Rule(
        "scores divided by the temperature, with Gumbel noise: a draw without replacement instead of the best (PDS)",
        "score / temperature + Gumbel noise",
        noisy=True,
    ),
    "random": Rule("a draw of equal size, to compare with", "uniform number by hash of the id", noisy=True),
    "scores": Rule("your own scores", "score of the file"),
}
"""Value of ``selection.rule``."""
