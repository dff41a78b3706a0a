"""What the page about a run shows of this room: training tokens by source, and what was held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from megatron_ipt.stages.page import (
    OLIVE,
    ORANGE,
    PINK,
    PURPLE,
    TEAL,
    Column,
    Figure,
    Figures,
    Part,
    Row,
    Share,
    Shares,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import compact, exact, percent, plural
from megatron_ipt.tokens.dataset.description import DATASET

_BUILT_IN = {"raw": ORANGE, "augmented": TEAL}
_OTHERS = (PURPLE, PINK, OLIVE)
_HELD_OUT = ("valid", "test")


def part(stage: StageRecord) -> Part:
    """The tokens on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    train = counts["train"]
    sources = counts.get("train_by_source", {})
    dataset = stage.read(DATASET, {})
    shares = source_shares(sources, dataset)
    held_out = held_out_tokens(dataset)
    rows = [
        (
            percent(shares[name].share),
            exact(source["tokens"]),
            *(exact(held_out[split].get(name, 0)) for split in _HELD_OUT),
            exact(source["documents"]),
        )
        for name, source in sources.items()
    ]
    columns = ("Share", "Train", "Valid", "Test", "Documents")
    notes = ["Train, valid and test in tokens; documents and share are of the training mixture."]
    notes += [
        f"{plural(source['left_out_documents'], 'document')} of {name} left out to keep the shares."
        for name, source in sources.items()
        if source.get("left_out_documents")
    ]
    return Part(
        title="Tokens",
        step=Step(
            into=f"from {plural(train['documents'], 'document')}",
            amount=compact(train["tokens"]),
            unit="training tokens",
            detail=f"vocabulary of {compact(counts['vocab_size'])}",
        ),
        elements=[
            Figures(
                [
                    Figure("training tokens", compact(train["tokens"]), f"in {exact(train['documents'])} documents"),
                    held_out_figure(counts, "documents"),
                    Figure("vocabulary", exact(counts["vocab_size"])),
                ]
            ),
            Shares("Shares of the training tokens", list(shares.values())),
            source_table(shares, columns, rows, [*notes, *rejected_notes(stage)]),
        ],
    )


def source_colors(names: Iterable[str], stage: StageRecord | None = None) -> dict[str, str]:
    """A color for each of the sources ``names``.

    Args:
        stage: that made the token data. With it, a source has the same color wherever it appears on the page.
    """
    made = stage.counts.get("train_by_source", {}) if stage is not None else {}
    others = [name for name in dict.fromkeys([*made, *names]) if name not in _BUILT_IN]
    return _BUILT_IN | {name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(others)}


def source_shares(sources: Mapping[str, Mapping[str, Any]], dataset: Mapping[str, Any]) -> dict[str, Share]:
    """The share of each source in training: of the tokens, or its weight if training blends the sources.

    Args:
        sources: ``{name: {tokens}}`` of the training data.
        dataset: ``dataset.json``.
    """
    entries = dataset.get("train", ())
    weights = {entry["name"]: entry["weight"] for entry in entries if "by_source" not in entry and "weight" in entry}
    whole = sum(weights.values())
    total = sum(source["tokens"] for source in sources.values())
    colors = source_colors(sources)
    shares = {}
    for name, source in sources.items():
        by_tokens = source["tokens"] / total if total else 0.0
        share = weights[name] / whole if name in weights and whole else by_tokens
        shares[name] = Share(name, share, colors[name])
    return shares


def source_table(
    shares: Mapping[str, Share], columns: Iterable[str], rows: Iterable[Iterable[str]], notes: Iterable[str]
) -> Table:
    """A row for each source, with its color."""
    return Table(
        (Column("Source", numeric=False), *map(Column, columns)),
        [Row((name, *row), share.color) for (name, share), row in zip(shares.items(), rows)],
        note=" ".join(notes),
    )


def held_out_tokens(dataset: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Tokens of each source in each split that is held out."""
    return {split: {entry["name"]: entry["tokens"] for entry in dataset.get(split, ())} for split in _HELD_OUT}


def held_out_figure(counts: Mapping[str, Any], unit: str) -> Figure:
    """Tokens held out, in how many of ``unit``."""
    units, tokens = (sum(counts[split][key] for split in _HELD_OUT) for key in ("documents", "tokens"))
    return Figure("held out", compact(tokens), f"in {exact(units)} {unit}")


def rejected_notes(stage: StageRecord) -> list[str]:
    """How many records of which source were rejected, and where they are listed."""
    return [
        f"{plural(count, 'record')} of {name} rejected, see `{stage.name}/rejects-{name}.jsonl`."
        for name, count in stage.counts.get("rejected", {}).items()
        if count
    ]
