"""What the page about a run shows of proxy runs: the target loss, lambda, the scores, and texts at both ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from megatron_ipt.selection.findings.text import one_line
from megatron_ipt.selection.proxy.stage import DETAILS
from megatron_ipt.stages.page import (
    COLORS,
    FAINT,
    TEAL,
    Caution,
    Chart,
    Curve,
    Element,
    Figure,
    Figures,
    Fold,
    Part,
    Quotes,
    Segment,
    SideBySide,
    StageRecord,
    Step,
)
from megatron_ipt.stages.readable import compact, exact, number, percent, plural

_TITLES = {"top": "Documents at the top", "bottom": "Documents at the bottom"}
_MOST_CURVES = len(COLORS) - 1


def part(stage: StageRecord) -> Part:
    """The proxy runs on the page."""
    counts, found = stage.counts, stage.read(DETAILS, None)
    if not counts or found is None:
        return Part()
    documents, runs = counts["documents"], plural(counts["runs"], "run")
    figures = [
        Figure("documents scored", exact(documents), f"drawn from {exact(counts['corpus_documents'])}"),
        Figure("target texts", exact(counts["target_documents"]), f"{compact(counts['target_tokens'])} tokens"),
        Figure("target loss", number(counts["target_loss_after"]), f"{number(counts['target_loss_before'])} at first"),
        Figure("scores above 0", percent(found["helpful"] / documents), "more of them would lower the target loss"),
    ]
    if found["agreement"] is not None:
        figures.append(Figure("agreement of starts", number(found["agreement"]), "mean rank correlation of scores"))
    if found["step_error"] is not None:
        figures.append(Figure("error of derivatives", percent(found["step_error"]), "with a third of the step"))
    if len(found["targets"]) > 1:
        figures.append(Figure("with weight", percent(found["with_weight"] / documents), "after the last outer step"))
    return Part(
        title="Proxy runs",
        step=Step(f"{runs} of a small model", compact(documents), "documents scored", "for a target"),
        headline=f"{plural(documents, 'document')} scored by {runs} of a small model",
        elements=[
            Figures(figures),
            *(Caution(f"Warning: {warning}.") for warning in found["warnings"]),
            SideBySide([_targets(found), _costates(found)]),
            _histogram(found),
            *_samples(found),
        ],
    )


def _targets(found: Mapping[str, Any]) -> Chart:
    outer: Sequence[Sequence[float]] = found["targets"]
    shown = outer if len(outer) <= _MOST_CURVES else [*outer[: _MOST_CURVES - 1], outer[-1]]
    places = [place for place, curve in enumerate(outer) if any(curve is other for other in shown)]
    curves = [
        Curve(
            f"outer step {place + 1}" if len(outer) > 1 else "mean of the starting points",
            range(1, len(outer[place]) + 1),
            outer[place],
            COLORS[(number + 1) % len(COLORS)],
        )
        for number, place in enumerate(places)
    ]
    return Chart("Target loss", curves, x_label="step", small="nats per token, mean over target texts")


def _costates(found: Mapping[str, Any]) -> Chart:
    steps = range(1, len(found["costates"]) + 1)
    starts = [Curve(each["model"], steps, each["costates"]) for each in found["by_start"]]
    mean = Curve("mean", steps, found["costates"], TEAL)
    return Chart(
        "Norm of lambda",
        [*(starts if len(starts) > 1 else ()), mean],
        x_label="step",
        small="what is left to gain",
        log=True,
        note="It falls towards the end, where fewer steps are left to profit. Growth by orders of magnitude means an "
        "unstable run.",
    )


def _histogram(found: Mapping[str, Any]) -> Chart:
    histogram = found["histogram"]
    middles = [(low + high) / 2 for low, high in pairwise(histogram["edges"])]
    return Chart(
        "Documents by score",
        [Curve("documents", middles, histogram["rows"], TEAL)],
        x_label="fall of the summed target loss per unit of weight",
    )


def _samples(found: Mapping[str, Any]) -> Iterator[Element]:
    for place, samples in found["samples"].items():
        quotes = [
            (Segment(one_line(sample["text"])), Segment(f" {sample['score']:.3g} ({sample['id']})", FAINT))
            for sample in samples
        ]
        yield Fold(_TITLES[place], [Quotes("", quotes)], plural(len(quotes), "text"))
