"""The terms of a recipe's loss, with their options checked, before any process starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import from_mapping
from megatron_ipt.errors import RecipeError
from megatron_ipt.extensions import load_object, own_file
from megatron_ipt.manifest import fingerprint_code
from megatron_ipt.training.config import ObjectiveTerm
from megatron_ipt.training.objectives.objective import Objective
from megatron_ipt.training.objectives.table import DEFAULT, DISTILLATION, TEACHER_OBJECTIVES, code_of
from megatron_ipt.training.teacher.config import DistillationConfig


@dataclass(frozen=True)
class Term:
    """One term: an objective under the name and with the weight that the recipe gives it."""

    name: str
    weight: float
    objective: Objective


def load_terms(settings: Mapping[str, ObjectiveTerm], distillation: DistillationConfig | None = None) -> list[Term]:
    """The terms in the order of the recipe; next-token prediction alone if there are none.

    Args:
        distillation: adds its own term and next-token prediction, with weights that add up to 1, before all others.

    Raises:
        RecipeError: the code of an objective cannot be imported or is none, or its options are wrong.
    """
    if distillation is None or not distillation.is_on:
        settings = settings or {DEFAULT: ObjectiveTerm()}
        return [Term(name, term.weight, _objective(name, term)) for name, term in settings.items()]
    next_token = ObjectiveTerm(weight=1 - distillation.alpha)
    kind = load_object(TEACHER_OBJECTIVES[distillation.objective], "training.distillation.objective")
    return [
        Term(DEFAULT, next_token.weight, _objective(DEFAULT, next_token)),
        Term(DISTILLATION, distillation.alpha, kind(distillation)),
        *(Term(name, term.weight, _objective(name, term)) for name, term in settings.items()),
    ]


def fingerprints(settings: Mapping[str, ObjectiveTerm]) -> list[dict[str, Any]]:
    """Fingerprints of the files with custom objectives, for the manifest."""
    files = {own_file(code_of(term.objective or name)) for name, term in settings.items()}
    return [entry for file in sorted(filter(None, files)) for entry in fingerprint_code(file)]


def _objective(name: str, term: ObjectiveTerm) -> Objective:
    key = f"training.objectives.{name}"
    code = code_of(term.objective or name)
    kind = load_object(code, f"{key}.objective")
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise RecipeError(f"{key}.objective: {code} is not a subclass of {Objective.__module__}.Objective")
    objective = kind(from_mapping(kind.Options, term.options, f"{key}.options."))
    if "loss" in objective.metrics:
        raise RecipeError(f"{key}.objective: {code} declares the metric 'loss', the name of the term's own loss")
    return objective
