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
    forms = [same_name(question) for question in questions]
    first = {form: number for number, form in reversed(list(enumerate(forms)))}
    exact = [first[form] != number for number, form in enumerate(forms)]
    near: set[int] = set()
    if threshold is not None and len(questions) > 1:
        distinct = ((number, question) for number, question in enumerate(questions) if not exact[number])
        found = NearDuplicates[int](threshold).find_all(distinct)
        near = {number for (number, _), earlier in found if earlier is not None}
    return [EXACT if exact[number] else NEAR if number in near else "" for number in range(len(questions))]
