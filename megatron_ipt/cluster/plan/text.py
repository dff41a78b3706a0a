"""A plan as a page of text."""

from __future__ import annotations

import textwrap

from megatron_ipt.cluster.plan.estimate import Plan
from megatron_ipt.progress import counted
from megatron_ipt.stages.costs import StageCost
from megatron_ipt.stages.readable import exact, size, time

_LABEL = 11


def render_plan(plan: Plan) -> str:
    """The page, about forty lines."""
    lines = [f"{plan.recipe} on {plan.gpus} x {plan.gpu}", ""]
    if plan.data:
        lines += [_labelled("data", "; ".join(plan.data)), ""]
    for entries in plan.lines.values():
        lines += [*(_labelled(label, text) for label, text in entries), ""]
    width = max(_LABEL + 1, *(len(cost.stage) + 2 for cost in plan.stages))
    lines.append(f"{'stage':<{width}}{'on':<18}{'time':>14}{'GPU hours':>14}  basis")
    lines += [_row(cost, width) for cost in plan.stages]
    stored = ", ".join(f"{name.replace('_', ' ')} {size(value * 1e9)}" for name, value in plan.storage_gb.items())
    if stored:
        lines += ["", _labelled("storage", stored)]
    lines += [_labelled("note", note) for note in plan.notes]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{textwrap.indent(text, ' ' * _LABEL).lstrip()}"


def _row(cost: StageCost, width: int) -> str:
    if cost.hours is None:
        return f"{cost.stage:<{width}}{'':<18}{'unknown':>14}{'':>14}  {cost.basis}"
    workers = counted(cost.workers, "GPU" if cost.resource == "gpu" else "core")
    gpu_hours = exact(cost.gpu_hours) if cost.gpu_hours else ""
    return f"{cost.stage:<{width}}{workers:<18}{time(cost.hours * 3600):>14}{gpu_hours:>14}  {cost.basis}"
