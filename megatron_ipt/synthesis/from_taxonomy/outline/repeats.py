"""Questions of a subject that say again what an earlier one says: exactly, or nearly.

They are left out before anybody answers them. What repeats a question of another subject is left in, as in the paper;
the stage that compares with benchmarks can take it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import same_name
from megatron_ipt.synthesis.near_duplicates import NearDuplicates

EXACT, NEAR = "repeats an earlier one", "nearly repeats an earlier one"


def repeats(questions: Sequence[str], threshold: float | None) -> list[str]:
    """For each question why it is left out, in order; empty for those that are kept.

    Args:
        questions: of one subject.
        threshold: similarity, as :mod:`megatron_ipt.synthesis.near_duplicates` measures it, from which two questions
            are nearly the same; None: only equal ones are found, after NFKC, case folding and reducing blanks.
    """
    seen: set[str] = set()
    reasons = []
    near = NearDuplicates[int](threshold) if threshold is not None and len(questions) > 1 else None
    for number, question in enumerate(questions):
        form = same_name(question)
        if form in seen:
            reasons.append(EXACT)
            continue
        seen.add(form)
        reasons.append(NEAR if near is not None and near.find(number, question) is not None else "")
    return reasons
