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

DEFAULT = "next_token"
"""The only term when a recipe names none."""


def code_of(objective: str) -> str:
    """``module:Class`` of an objective as the recipe names it."""
    return OBJECTIVES.get(objective, objective)
