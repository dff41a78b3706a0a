"""A plan as a page of text."""

from __future__ import annotations

from typing import Any

from megatron_ipt.cluster.plan.estimate import Plan
from megatron_ipt.progress import counted
from megatron_ipt.readable import compact, exact, size, time


def render_plan(plan: Plan) -> str:
    """The page, about forty lines."""
    model, training, data = plan.model, plan.training, plan.data
    active = model["active_parameters"]
    lines = [
        f"{plan.recipe} on {plan.gpus} x {plan.gpu} ({plan.precision})",
        "",
        f"model      {exact(model['parameters'])} parameters, vocabulary {exact(model['padded_vocab_size'])}"
        + (f", {exact(active)} active" if active != model["parameters"] else ""),
        f"data       {compact(data['documents'])} documents, {compact(data['tokens'])} tokens; "
        f"{compact(data['texts'])} texts get {compact(data['pairs'])} pairs, {compact(data['pair_tokens'])} tokens "
        f"({data['source']})",
        f"training   {compact(training['tokens'])} tokens = {exact(training['steps'])} steps of "
        f"{exact(training['tokens_per_step'])} tokens, {training['passes']:.2f} passes over the data",
        "",
    ]
    for title, option in (("best", plan.best), ("recipe", plan.of_recipe)):
        if option is not None:
            lines += _option(title, option)
    if plan.alternatives:
        lines.append("others     " + "; ".join(_short(option) for option in plan.alternatives))
    lines += ["", f"{'stage':<12}{'on':<18}{'time':>14}{'GPU hours':>14}  at"]
    for cost in plan.stages:
        workers = counted(cost.workers, "GPU" if cost.resource == "gpu" else "core")
        gpu_hours = exact(cost.gpu_hours) if cost.gpu_hours else ""
        lines.append(f"{cost.stage:<12}{workers:<18}{time(cost.hours * 3600):>14}{gpu_hours:>14}  {cost.basis}")
    stored = ", ".join(f"{name.replace('_', ' ')} {size(value * 1e9)}" for name, value in plan.storage_gb.items())
    lines += ["", f"storage    {stored}"]
    lines += [f"note       {note}" for note in plan.notes]
    return "\n".join(lines)


def _option(title: str, option: dict[str, Any]) -> list[str]:
    memory, seconds = option["memory_gib"], option["step_seconds"]
    fit = "fits" if option["fits"] else "DOES NOT FIT"
    parts = ", ".join(f"{name} {value:.1f}" for name, value in memory.items() if name != "total")
    slow = ", ".join(
        f"{name.replace('_', ' ')} {value / seconds['total']:.0%}"
        for name, value in seconds.items()
        if name != "total" and value / seconds["total"] >= 0.005
    )
    return [
        f"{title:<11}{option['label']}: {fit}, {memory['total']:.1f} GiB a GPU ({parts})",
        f"{'':<11}{seconds['total']:.3f} s a step ({slow}); {exact(option['tokens_per_second_per_gpu'])} tokens/s, "
        f"{option['tflops_per_gpu']:.0f} TFLOP/s a GPU, MFU {option['mfu']:.0%}",
    ]


def _short(option: dict[str, Any]) -> str:
    return f"{option['label']} {option['step_seconds']['total']:.3f} s, {option['memory_gib']['total']:.0f} GiB"
