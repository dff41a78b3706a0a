"""What the page about a run shows of this room: what scorers think of the corpus, and what the rule kept and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from megatron_ipt.selection.findings.text import figures_of, one_line
from megatron_ipt.selection.rules import RULES
from megatron_ipt.selection.stage import DETAILS
from megatron_ipt.stages import ROW_SCORES
from megatron_ipt.stages.page import (
    FAINT,
    GREY,
    ORANGE,
    TEAL,
    Caution,
    Chart,
    Column,
    Curve,
    Element,
    Figure,
    Figures,
    Fold,
    Part,
    Quotes,
    Row,
    Segment,
    SideBySide,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import compact, exact, number, percent, plural, size, time

_MOST_GROUPS = 20
_TITLES = {"top": "Texts at the top", "cut": "Texts around the cut", "bottom": "Texts at the bottom"}


def scoring_part(stage: StageRecord) -> Part:
    """The scorers on the page."""
    counts = stage.counts
    if not counts:
        return Part()
    unit = "row" if ROW_SCORES in stage.stage.makes else "document"
    columns = [Column("Scorer", numeric=False), Column("Model", numeric=False)]
    columns += [Column(name) for name in (f"{unit}s".capitalize(), "Tokens", "Nats per token", "Window", "Time")]
    rows = [
        Row(
            (
                name,
                found["engine"] if found["model"] == found["engine"] else f"{found['model']} ({found['engine']})",
                exact(found["scored"]),
                compact(found["tokens"]),
                _mean(found),
                exact(found["seq_length"]),
                time(found["seconds"]),
            )
        )
        for name, found in counts["scorers"].items()
    ]
    refused = sum(found["refused"] for found in counts["scorers"].values())
    note = f"{plural(refused, unit)} refused by an engine." if refused else ""
    scorers = plural(len(rows), "model")
    return Part(
        title="Scores",
        step=Step(f"by {scorers}", compact(counts["rows"]), f"{unit}s scored"),
        headline=f"{plural(counts['rows'], unit)} scored by {scorers}",
        elements=[Table(columns, rows, note=note)],
    )


def part(stage: StageRecord) -> Part:
    """The selection on the page."""
    found = stage.read(DETAILS, None)
    if not stage.counts or found is None:
        return Part()
    kept, rows, units = found["kept"], found["rows"], f"{found['unit']}s"
    share = percent(kept / max(rows, 1))
    figures = [
        Figure("kept", exact(kept), f"{share} of {exact(rows)} training {units}"),
        Figure("bytes kept", percent(found["kept_bytes"] / max(found["bytes"], 1)), size(found["kept_bytes"])),
    ]
    if found["tokens"]:
        figures.append(
            Figure("tokens kept", percent(found["kept_tokens"] / found["tokens"]), compact(found["kept_tokens"]))
        )
    if found["cut"] is not None:
        figures.append(Figure("lowest score kept", number(found["cut"])))
    figures.append(
        Figure(
            "overlap with random",
            percent(found["overlap_with_random"]),
            f"of what is kept; {percent(found['expected_overlap'])} by chance",
        )
    )
    if compared := found.get("compared"):
        others = ", ".join(f"{name} {scorer}" for name, scorer in compared["with"].items())
        figures.append(
            Figure("change sides", percent(compared["changed_sides"] / max(rows, 1)), f"of all {units}, with {others}")
        )
    return Part(
        title="Selection",
        step=Step(f"from {plural(rows, found['unit'])}", compact(kept), f"{units} kept", share),
        headline=f"{share} of the training {units} kept",
        elements=[
            Figures(figures, f"Rule `{found['rule']}`: {_meaning(found)}. Held-out data is all kept."),
            *(Caution(f"Warning: {warning}.") for warning in found["warnings"]),
            *_curves(found),
            SideBySide([_groups("Kept by domain", found["by_domain"]), _by_length(found["by_length"])]),
            _groups("Kept by source", found["by_source"]),
            *_labels(found.get("labels")),
            _left_out(stage, found["left_out"]),
            *_samples(found),
        ],
    )


def _mean(found: Mapping[str, Any]) -> str:
    """Of what a scorer says of a token: nats, or the prediction of a learned scorer."""
    value = found["nats_per_token"]
    return f"score {number(-value)}" if found.get("measure") == "score" else number(value)


def _meaning(found: Mapping[str, Any]) -> str:
    if found.get("learned") and not RULES[found["rule"]].noisy:
        return "predicted score, in standard deviations"
    return RULES[found["rule"]].score.format(per=found["per"])


def _curves(found: Mapping[str, Any]) -> Iterator[Element]:
    histogram = found["histogram"]
    middles = [(low + high) / 2 for low, high in pairwise(histogram["edges"])]
    curves = [
        Curve(f"all {found['unit']}s", middles, histogram["rows"], GREY),
        Curve("kept", middles, histogram["kept"], TEAL),
    ]
    if found["cut"] is not None:
        highest = max(histogram["rows"], default=0)
        curves.append(Curve("cut", [found["cut"]] * 2, [0, highest], ORANGE, dashed=True))
    yield Chart(
        "Documents by score",
        curves,
        x_label=_meaning(found),
        note="The first and the last point also hold what lies beyond them.",
    )
    relation = found["relation"]
    if relation:
        teacher, reference = found["scorers"]
        missing = [float("nan") if value is None else value for value in relation["kept"]]
        yield Chart(
            f"{reference} against {teacher}",
            [
                Curve(f"all {found['unit']}s", relation["teacher"], relation["all"], GREY),
                Curve("kept", relation["teacher"], missing, TEAL),
                Curve("equal", relation["teacher"], relation["teacher"], ORANGE, dashed=True),
            ],
            x_label=f"nats per {found['per']} under {teacher}",
            small=f"nats per {found['per']} under {reference}",
            note=f"Means over twentieths of all, from what {teacher} finds easiest to the hardest.",
        )


def _groups(title: str, groups: Mapping[str, Mapping[str, int]]) -> Table:
    """Kept shares by name; nothing where there is only one name."""
    rows = [
        Row((name, exact(counts["rows"]), exact(counts["kept"]), percent(counts["kept"] / max(counts["rows"], 1))))
        for name, counts in list(groups.items())[:_MOST_GROUPS]
    ]
    note = f"The {len(rows)} largest of {exact(len(groups))}." if len(groups) > len(rows) else ""
    columns = (
        Column(title.rpartition(" ")[2].capitalize(), numeric=False),
        Column("Documents"),
        Column("Kept"),
        Column("Share"),
    )
    return Table(columns, rows if len(groups) > 1 else [], title, note=note)


def _labels(found: Mapping[str, Any] | None) -> Iterator[Table]:
    """How well each score tells the labels apart."""
    if found is None:
        return
    rows = []
    for row in found["rows"]:
        areas = [row["auc"].get(name) for name in found["scores"]]
        rows.append(
            Row(
                (
                    row["label"],
                    exact(row["rows"]),
                    percent(row["kept"] / max(row["rows"], 1)),
                    *("" if area is None else f"{area:.3f}" for area in areas),
                )
            )
        )
    columns = (Column("Label", numeric=False), Column("Documents"), Column("Kept"), *map(Column, found["scores"]))
    note = (
        f"ROC AUC: how often a document labelled {found['good']} has a higher score than one with this label; 0.5 is "
        f"chance. The score is what the rule orders by; scorers alone, by their log-likelihood."
    )
    if found["unlabelled"]:
        note += f" {plural(found['unlabelled'], 'document')} without a label."
    yield Table(columns, rows, "Kept by label", note=note)


def _by_length(deciles: list[Mapping[str, int]]) -> Table:
    rows = [
        Row(
            (
                f"from {size(decile['from_bytes'])}",
                exact(decile["rows"]),
                exact(decile["kept"]),
                percent(decile["kept"] / max(decile["rows"], 1)),
            )
        )
        for decile in deciles
        if decile["rows"]
    ]
    columns = (Column("Length", numeric=False), Column("Documents"), Column("Kept"), Column("Share"))
    return Table(columns, rows if len(rows) > 1 else [], "Kept by length", "tenths of all")


def _left_out(stage: StageRecord, reasons: Mapping[str, int]) -> Table:
    rows = [Row((reason, exact(count))) for reason, count in reasons.items()]
    columns = (Column("Reason", numeric=False), Column("Documents"))
    note = f"Ids with reason and scores are in `{stage.name}/left_out/`."
    return Table(columns, rows, "Left out", note=note)


def _samples(found: Mapping[str, Any]) -> Iterator[Element]:
    for place, samples in found["samples"].items():
        quotes = [
            (Segment(one_line(sample["text"])), Segment(f" {figures_of(sample, found)} ({sample['id']})", FAINT))
            for sample in samples
        ]
        if quotes:
            yield Fold(_TITLES[place], [Quotes("", quotes)], plural(len(quotes), "text"))
