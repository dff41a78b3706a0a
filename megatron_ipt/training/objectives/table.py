"""Objectives by name: where their code is, imported only when a recipe uses it. Extensions add rows.

A recipe may also name the code itself, as ``module:Class`` or ``path/to/file.py:Class``.
"""

from __future__ import annotations

OBJECTIVES: dict[str, str] = {
    "next_token": "megatron_ipt.training.objectives.next_token:NextToken",
    "weighted_rows": "megatron_ipt.training.objectives.weighted_rows:WeightedRows",
}
"""Value of ``training.objectives.NAME.objective``: ``module:Class`` of an
:class:`~megatron_ipt.training.objectives.objective.Objective`."""

_DISTILLATION = "megatron_ipt.training.objectives.distillation:Distillation"
TEACHER_OBJECTIVES: dict[str, str] = dict.fromkeys(
    ("forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"), _DISTILLATION
) | {
    "minillm": "megatron_ipt.training.objectives.minillm.objective:MiniLLM",
    "dpkd": "megatron_ipt.training.objectives.dpkd.objective:objective_of",
}
"""Value of ``training.distillation.objective``: code of an objective whose options are that section."""

DEFAULT = "next_token"
"""The only term when a recipe names none."""
DISTILLATION = "distillation"
"""Name of the term that ``training.distillation`` adds."""


def code_of(objective: str) -> str:
    """``module:Class`` of an objective as the recipe names it."""
    return OBJECTIVES.get(objective, objective)
