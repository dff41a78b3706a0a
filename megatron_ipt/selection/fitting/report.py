"""What the page about a run shows of a fitted scorer: how well it orders documents that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from megatron_ipt.selection.fitting.stage import DETAILS
from megatron_ipt.selection.order import ranks
from megatron_ipt.stages.page import (
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
                ],
                f"Trunk: `{found['trunk']}`, on the first {exact(found['seq_length'])} tokens of a document.",
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
    """Held-out documents in the order of their scores, by their place in the order of predictions."""
    ranked = [ranks(np.array(found["points"][name])) + 1 for name in ("score", "predicted")]
    points = sorted(zip(*(each.tolist() for each in ranked)))
    size = max(1, len(points) // _GROUPS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    curves = [
        Curve(
            "each document" if size == 1 else f"mean of {size}",
            [fmean(score for score, _ in group) for group in groups],
            [fmean(predicted for _, predicted in group) for group in groups],
            TEAL,
        ),
        Curve("the same order", [1, len(points)], [1, len(points)], ORANGE, dashed=True),
    ]
    return Chart("Rank by prediction", curves, x_label="rank by score in the proxy run", small="held-out documents")
