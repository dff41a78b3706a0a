"""What the page about a run shows of a fitted scorer: how well it orders documents that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from megatron_ipt.selection.fitting.stage import DETAILS
from megatron_ipt.stages.page import (
    GREY,
    ORANGE,
    TEAL,
    Caution,
    Chart,
    Curve,
    Figure,
    Figures,
    Part,
    SideBySide,
    StageRecord,
    Step,
)
from megatron_ipt.stages.readable import exact, number, plural

_GROUPS = 20


def part(stage: StageRecord) -> Part:
    """The scorer on the page."""
    counts, found = stage.counts, stage.read(DETAILS, None)
    if not counts or found is None:
        return Part()
    spearman = number(found["spearman"])
    return Part(
        title="Scorer",
        step=Step(f"from {plural(counts['documents'], 'document')}", spearman, "rank correlation", "on held-out ones"),
        headline=f"a scorer fitted with a rank correlation of {spearman}",
        elements=[
            Figures(
                [
                    Figure("Spearman", spearman, f"on {plural(counts['held_out_documents'], 'held-out document')}"),
                    Figure("documents", exact(counts["documents"]), "that it learned from"),
                    Figure("epoch", exact(found["epoch"]), f"the best of {len(found['by_epoch'])}"),
                    Figure("model", found["trunk"]),
                ]
            ),
            *(Caution(f"Warning: {warning}.") for warning in found["warnings"]),
            SideBySide([_epochs(found), _predictions(found)]),
        ],
    )


def _epochs(found: Mapping[str, Any]) -> Chart:
    epochs = range(1, len(found["by_epoch"]) + 1)
    return Chart(
        "Rank correlation by epoch", [Curve("held-out documents", epochs, found["by_epoch"], TEAL)], x_label="epoch"
    )


def _predictions(found: Mapping[str, Any]) -> Chart:
    """Held-out documents in the order of their scores, and the means of neighbours."""
    points = sorted(zip(found["points"]["score"], found["points"]["predicted"]))
    size = max(1, len(points) // _GROUPS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    scores = [score for score, _ in points]
    curves = [
        Curve("each document", scores, [predicted for _, predicted in points], GREY),
        Curve(
            "mean of neighbours",
            [fmean(score for score, _ in group) for group in groups],
            [fmean(predicted for _, predicted in group) for group in groups],
            TEAL,
        ),
        Curve("equal", [scores[0], scores[-1]], [scores[0], scores[-1]], ORANGE, dashed=True),
    ]
    return Chart(
        "Prediction by score",
        curves,
        x_label="score in the proxy run",
        small="held-out documents, standard deviations",
    )
