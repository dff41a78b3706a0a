"""What the page about a run shows of this room: what contexts gain, where neighbours come from, and three contexts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from megatron_ipt.composition.contexts import COPIES, RANDOM, REAL
from megatron_ipt.composition.stage import DETAILS
from megatron_ipt.stages.page import (
    FAINT,
    FIRST,
    GREY,
    ORANGE,
    PURPLE,
    SECOND,
    TEAL,
    Bars,
    Caution,
    Chart,
    Column,
    Curve,
    Element,
    Figure,
    Figures,
    Part,
    Row,
    Sample,
    Samples,
    Segment,
    SideBySide,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import compact, exact, number, percent, plural

_LABELS = {REAL: "contexts", RANDOM: "random paragraphs", COPIES: "copies of the query"}
_COLORS = {REAL: TEAL, RANDOM: GREY, COPIES: PURPLE}
_HOW = {FIRST: "the query", SECOND: "the nearest neighbour"}


def part(stage: StageRecord) -> Part:
    """The composition on the page."""
    counts, found = stage.counts, stage.read(DETAILS, None)
    if not counts or found is None:
        return Part()
    share = stage.settings.get("share", 0.5)
    kept = percent(counts["rows"] / max(counts["contexts"], 1))
    return Part(
        title="Contexts",
        step=Step(
            f"from {plural(counts['paragraphs'], 'paragraph')}",
            compact(counts["rows"]),
            "contexts",
            f"{compact(counts['row_tokens'])} tokens",
        ),
        headline=f"{plural(counts['rows'], 'context')} composed of {plural(counts['paragraphs'], 'paragraph')}",
        elements=[
            Figures(
                [
                    Figure("contexts kept", exact(counts["rows"]), f"{kept} of {exact(counts['contexts'])}"),
                    Figure("tokens in contexts", compact(counts["row_tokens"])),
                    Figure("of each context filled", percent(counts["fill"])),
                    Figure(
                        "of the samples are contexts", percent(counts["weight"]), f"for {percent(share)} of the tokens"
                    ),
                    Figure("never a neighbour", percent(found["uses"]["never"]), "of the paragraphs"),
                    Figure("most uses", exact(found["uses"]["most"]), f"{number(found['uses']['mean'], 3)} on average"),
                ]
            ),
            *(Caution(f"Warning: {warning}.") for warning in found["warnings"]),
            *_gains(found["gains"]),
            SideBySide([_ranks(found["ranks"]), Bars("Fill of the contexts", found["fill"]["counts"], in_order=True)]),
            SideBySide(
                [
                    Bars("Paragraphs by contexts in which they are neighbours", found["uses"]["counts"], in_order=True),
                    Bars("Left out", {reason: count for reason, count in counts["dropped"].items() if count}),
                ]
            ),
            _cards(found["cards"]),
        ],
    )


def _gains(gains: Mapping[str, Any]) -> Iterator[Element]:
    if not gains:
        return
    kinds = gains["kinds"]
    yield SideBySide(
        [_histogram("Contexts by gain", gains["close"], gains), _histogram("With copies", gains["all"], gains)]
    )
    columns = [Column("Kind", numeric=False)]
    columns += [Column(name) for name in ("Contexts", "Mean", "Median", "Above 0", "Above the threshold")]
    rows = [
        Row(
            (
                _LABELS[kind],
                exact(each["contexts"]),
                number(each["mean"], 3),
                number(each["median"], 3),
                percent(each["above_zero"]),
                percent(each["above_threshold"]),
            ),
            _COLORS[kind],
        )
        for kind, each in kinds.items()
    ]
    note = f"Mean and median in nats per token. A context is kept above {number(gains['threshold'], 3)}."
    yield Table(columns, rows, "Gain by kind", note=note)


def _histogram(title: str, found: Mapping[str, Any], gains: Mapping[str, Any]) -> Chart:
    middles = [(low + high) / 2 for low, high in pairwise(found["edges"])]
    curves = [Curve(_LABELS[kind], middles, shares, _COLORS[kind]) for kind, shares in found["shares"].items()]
    highest = max(max(shares) for shares in found["shares"].values())
    curves.append(Curve("threshold", [gains["threshold"]] * 2, [0, highest], ORANGE, dashed=True))
    return Chart(
        title, curves, x_label="loss alone less loss in the context, nats per token", small="share of each kind"
    )


def _ranks(ranks: Mapping[str, Any]) -> Chart:
    places = [float(rank) for rank in ranks["ranks"]]
    return Chart(
        "Nearest paragraphs before exclusions",
        [
            Curve("of the query's document", places, ranks["same_document"], TEAL),
            Curve("near-duplicates from others", places, ranks["near_duplicates"], PURPLE),
            Curve("of the document by chance", places, [ranks["chance"]] * len(places), ORANGE, dashed=True),
        ],
        x_label="rank",
        small="share",
    )


def _cards(cards: list[Mapping[str, Any]]) -> Samples:
    samples = []
    for card in cards:
        segments: list[Segment] = []
        for rank, neighbour in reversed(list(enumerate(card["neighbours"]))):
            segments.append(Segment(f"{neighbour['name']}  ", FAINT))
            segments.append(Segment(f"{neighbour['text']}\n\n", SECOND if rank == 0 else "plain"))
        segments += [Segment(f"{card['query']}  ", FAINT), Segment(card["text"], FIRST)]
        gain = "" if card["gain"] is None else f"gain {number(card['gain'], 3)} nats per token"
        facts = [gain, plural(len(card["neighbours"]), "neighbour")]
        samples.append(Sample(segments, [fact for fact in facts if fact]))
    return Samples(
        "Contexts with the highest, the middle and the lowest gain" if cards and cards[0]["gain"] else "Some contexts",
        samples,
        [Segment(text, mark) for mark, text in _HOW.items()],
    )
