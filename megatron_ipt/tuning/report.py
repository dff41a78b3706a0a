"""What the page about a run shows of this room: examples by data set, and how much of them is learned."""

from __future__ import annotations

from megatron_ipt.stages.page import Figure, Figures, Part, Shares, StageRecord, Step
from megatron_ipt.stages.readable import compact, exact, percent, plural
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.tokens.report import (
    held_out_figure,
    held_out_tokens,
    rejected_notes,
    source_shares,
    source_table,
)


def part(stage: StageRecord) -> Part:
    """The tuning data on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    train, sources = counts["train"], counts["train_by_source"]
    dataset = stage.read(DATASET, {})
    shares, held_out = source_shares(sources, dataset), held_out_tokens(dataset)
    examples, sequences = plural(train["examples"], "example"), plural(train["documents"], "sequence")
    rows = [
        (
            percent(shares[name].share),
            exact(source["examples"]),
            exact(source["tokens"]),
            exact(source["loss_tokens"]),
            exact(held_out["valid"].get(name, 0)),
            exact(held_out["test"].get(name, 0)),
        )
        for name, source in sources.items()
    ]
    columns = ("Share", "Examples", "Train", "Learned", "Valid", "Test")
    note = (
        "Train, learned, valid and test in tokens; examples and share are of the training data, repetitions included."
    )
    return Part(
        title="Tuning data",
        link="Tuning",
        step=Step(
            into=f"from {examples}",
            amount=compact(train["tokens"]),
            unit="training tokens",
            detail=f"in {sequences}",
        ),
        headline=f"{examples} packed into {sequences}",
        elements=[
            Figures(
                [
                    Figure("training tokens", compact(train["tokens"]), f"in {sequences}"),
                    Figure("learned", percent(counts["loss_share"]), "of the training tokens"),
                    Figure("of each sequence filled", percent(counts["packing_efficiency"])),
                    held_out_figure(counts, "sequences"),
                    Figure("vocabulary", exact(counts["vocab_size"])),
                ]
            ),
            Shares("Shares of the training tokens", list(shares.values())),
            source_table(shares, columns, rows, [note, *rejected_notes(stage)]),
        ],
    )
