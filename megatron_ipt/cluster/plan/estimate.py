"""``plan``: what a recipe costs before it runs, from the cost models of its stages (:mod:`megatron_ipt.stages.costs`).

Stages are asked in the order of the flow; each gets the sizes that the stages before it make. If the size of the data
a flow begins with is unknown, it is chosen to give a later stage as much as it demands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from megatron_ipt.errors import RecipeError, UserError
from megatron_ipt.manifest import read_manifest
from megatron_ipt.models.hardware import gpu_named
from megatron_ipt.pipeline import context_of
from megatron_ipt.recipe import Recipe, section_of, stages_of
from megatron_ipt.stages import EVERYTHING, Stage, inputs_of, load
from megatron_ipt.stages.costs import (
    Assumptions,
    Beginning,
    Demand,
    Estimate,
    Machine,
    Planning,
    StageCost,
    UnknownSize,
)


@dataclass(frozen=True)
class Plan:
    """What a recipe costs.

    Attributes:
        recipe: its name.
        gpu: type of the GPUs.
        gpus: how many.
        data: the sizes of the data in a few words each.
        lines: further (label, text) by stage.
        facts: of all stages, for programs.
        stages: time of each stage.
        storage_gb: what stages write, in GB (1e9 bytes).
        notes: what the reader must know.
    """

    recipe: str
    gpu: str
    gpus: int
    data: list[str] = field(default_factory=list)
    lines: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    stages: list[StageCost] = field(default_factory=list)
    storage_gb: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: figures without the texts made of them."""
        return {
            "recipe": self.recipe,
            "gpu": self.gpu,
            "gpus": self.gpus,
            **self.facts,
            "stages": [asdict(row) for row in self.stages],
            "storage_gb": self.storage_gb,
            "notes": self.notes,
        }


def make_plan(recipe: Recipe, machine: Machine, assumptions: Assumptions | None = None) -> Plan:
    """Plans ``recipe`` on ``machine``.

    Raises:
        RecipeError: the GPU is unknown or lacks the recipe's precision, or the vocabulary is unknown.
        UserError: the size of the data cannot be determined.
    """
    if min(machine.gpus, machine.gpus_per_node, machine.cores) < 1:
        raise RecipeError("--gpus, --gpus-per-node and --cpus must be 1 or more")
    planner = _Planner(recipe, machine, assumptions or Assumptions())
    try:
        estimates = dict(planner.estimates())
    except UnknownSize as unknown:
        planner = planner.with_beginning(unknown)
        estimates = dict(planner.estimates())
    plan = Plan(recipe.name, gpu_named(machine.gpu).name, machine.gpus)
    for name, estimate in estimates.items():
        plan.stages.extend(estimate.costs)
        plan.storage_gb.update(estimate.storage_gb)
        plan.notes.extend(estimate.notes)
        plan.data.extend(filter(None, [estimate.data]))
        if estimate.lines:
            plan.lines[name] = estimate.lines
        _merge(plan.facts, estimate.facts)
    return plan


def _merge(facts: dict[str, Any], added: Mapping[str, Any]) -> None:
    """Adds facts; groups of the same name become one."""
    for name, value in added.items():
        if isinstance(value, Mapping) and isinstance(facts.get(name), Mapping):
            facts[name] = {**facts[name], **value}
        else:
            facts[name] = value


@dataclass(frozen=True)
class _Planner:
    """Asks the stages of a recipe, in order."""

    recipe: Recipe
    machine: Machine
    assumptions: Assumptions
    beginning: Beginning | None = None

    def estimates(self, until: Stage | None = None) -> Iterator[tuple[str, Estimate]]:
        """Estimates by name of the stage, up to and without ``until``."""
        stages = stages_of(self.recipe)
        demands: dict[str, Demand] = {}
        for _, kind, demand in self._demands():
            demands.setdefault(kind, demand)
        sizes: dict[str, dict[str, Any]] = {}
        for stage in stages:
            if stage == until:
                return
            makers = inputs_of(stage, stages)
            unknown = [] if EVERYTHING in stage.reads_if_made else [
                maker.name for kind, maker in makers.items() if kind not in sizes[maker.name]
            ]  # fmt: skip
            inputs = {kind: sizes[maker.name][kind] for kind, maker in makers.items() if kind in sizes[maker.name]}
            if not stage.cost:
                # A stage between two of the same kind is taken to pass on as much as it gets.
                passed = {kind: inputs[kind] for kind in stage.made_after(inputs) if kind in inputs}
                estimate = Estimate((StageCost.unknown(stage.name, "no cost model"),), passed)
            elif unknown:
                reason = f"{' and '.join(dict.fromkeys(unknown))} has no cost model"
                estimate = Estimate((StageCost.unknown(stage.name, reason),))
            else:
                estimate = load(stage.cost)(section_of(self.recipe, stage), self._planning(stage, inputs, demands))
            sizes[stage.name] = dict(estimate.makes)
            yield stage.name, estimate

    def _planning(self, stage: Stage, inputs: Mapping[str, Any], demands: Mapping[str, Demand]) -> Planning:
        manifest = read_manifest(context_of(stage, self.recipe).directory) or {}
        counts = manifest["counts"] if manifest.get("status") == "complete" else {}
        return Planning(
            self.machine, self.assumptions, inputs, counts, demands, self.beginning, self.recipe.compression
        )

    def _demands(self) -> list[tuple[Stage, str, Demand]]:
        """(stage, kind, what it needs of that kind), in order."""
        return [
            (stage, kind, demand)
            for stage in stages_of(self.recipe)
            if stage.demand
            for kind, demand in load(stage.demand)(section_of(self.recipe, stage)).items()
        ]

    def with_beginning(self, unknown: UnknownSize) -> _Planner:
        """The same with as much data as the first stage with a demand needs.

        Raises:
            UserError: no stage says how much it needs.
        """
        advice = ""
        for stage, kind, demand in self._demands():
            if demand.tokens is None:
                advice += f", or set {demand.keys}"
                continue
            one, two = (self._tokens_read(stage, kind, documents) for documents in (1.0, 2.0))
            if one is not None and two is not None and two > one:
                # Linear in the beginning, on top of data that is here already.
                here, each = one - (two - one), two - one
                documents = max(0.0, (demand.tokens - here) / each)
                return replace(self, beginning=Beginning(documents, demand.source))
        raise UserError(f"plan: cannot determine the size of the data: {unknown}. Pass --documents{advice}.")

    def _tokens_read(self, stage: Stage, kind: str, documents: float) -> float | None:
        """Tokens of ``kind`` that ``stage`` reads if the flow begins with ``documents``; None if unknown."""
        maker = inputs_of(stage, stages_of(self.recipe)).get(kind)
        if maker is None:
            return None
        trial = replace(self, beginning=Beginning(documents, "assumed"))
        size = dict(trial.estimates(until=stage))[maker.name].makes.get(kind)
        return None if size is None else float(size.tokens)
