"""What the page about a run shows of this room: how many pairs were made for how many texts, and of which kinds."""

from __future__ import annotations

from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.stages.page import Bars, Figure, Figures, Part, StageRecord, Step
from megatron_ipt.stages.readable import MISSING, compact, exact, percent, plural


def part(stage: StageRecord) -> Part:
    """The pairs on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    texts, with_pairs, pairs = counts["texts"], counts["texts_with_pairs"], counts["pairs"]
    made = plural(pairs, "instruction–response pair")
    documents = stage.counts_of(DOCUMENTS).get("documents")
    figures = [
        Figure("pairs", exact(pairs)),
        Figure("texts", exact(texts)),
        Figure("texts with pairs", exact(with_pairs), percent(with_pairs / texts) if texts else ""),
        Figure(
            "pairs per text",
            f"{pairs / texts:,.2f}" if texts else MISSING,
            f"{pairs / with_pairs:,.2f} for texts with pairs" if with_pairs else "",
        ),
        Figure("categories", exact(len(counts["categories"]))),
    ]
    return Part(
        title="Instruction–response pairs",
        link="Pairs",
        step=Step(
            into=f"from {plural(texts, 'text')}",
            amount=compact(pairs),
            unit="pair" if pairs == 1 else "pairs",
            detail=f"{pairs / texts:,.1f} per text" if texts else "",
        ),
        headline=f"{made} made for {plural(texts, 'text')}"
        if documents is None
        else f"{plural(documents, 'document')} gained {made}",
        instead_of=(DOCUMENTS,),
        elements=[
            Figures(figures),
            Bars("Pairs by category", counts["categories"]),
            *([Bars("Pairs by task of the prompt", counts["tasks"])] if counts.get("tasks") else []),
            Bars("Dropped, by reason", counts.get("dropped", {})),
        ],
    )
