"""What the page about a run shows of this room: how texts and pairs were laid out, with samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.augment.patterns import ANSWER, FRAME, QUESTION, TEXT
from megatron_ipt.augment.samples import SAMPLES
from megatron_ipt.stages import CHAINS
from megatron_ipt.stages.page import (
    FAINT,
    FIRST,
    PLAIN,
    SECOND,
    Bars,
    Caution,
    Element,
    Figure,
    Figures,
    Part,
    Sample,
    Samples,
    Segment,
    StageRecord,
    Step,
)
from megatron_ipt.stages.readable import MISSING, compact, exact, percent, plural

_MARKS = {TEXT: PLAIN, QUESTION: FIRST, ANSWER: SECOND, FRAME: FAINT}
_LEGEND = tuple(Segment("template text" if kind == FRAME else kind, mark) for kind, mark in _MARKS.items())


def part(stage: StageRecord) -> Part:
    """The augmented documents on the page."""
    samples = Samples("Samples", [_sample(record) for record in stage.read(SAMPLES, [])], _LEGEND)
    if not stage.counts:
        return Part(title="Augmented documents", link="Documents", elements=[samples])
    counts = stage.counts
    pairs = stage.counts_of(CHAINS).get("pairs")
    return Part(
        title="Augmented documents",
        link="Documents",
        step=Step(
            into="" if pairs is None else f"from {plural(pairs, 'pair')}",
            amount=compact(counts["documents"]),
            unit="document" if counts["documents"] == 1 else "documents",
            detail=f"{counts['texts'] / counts['documents']:,.1f} texts each" if counts["documents"] else "",
        ),
        elements=[_figures(counts), *_cautions(counts), Bars("Layouts", counts.get("layouts", {})), samples],
    )


def _figures(counts: Mapping[str, Any]) -> Figures:
    documents, characters = counts["documents"], counts.get("characters")
    parts = (("text", "text_characters"), ("pairs", "pair_characters"), ("template text", "frame_characters"))
    shares = [f"{percent(counts[key] / characters)} are {name}" for name, key in parts] if characters else []
    return Figures(
        [
            Figure(
                "documents",
                exact(documents),
                f"{exact(round(characters / documents))} characters each" if documents and characters else "",
            ),
            Figure("with pairs", exact(counts["augmented_documents"])),
            Figure("without", exact(counts["plain_documents"])),
            Figure("texts per document", f"{counts['texts'] / documents:,.2f}" if documents else MISSING),
        ],
        note=f"Of all characters {', '.join(shares)}." if shares else "",
    )


def _cautions(counts: Mapping[str, Any]) -> list[Element]:
    unmatched = counts.get("unmatched_options", 0)
    if not unmatched:
        return []
    pairs = plural(unmatched, "pair")
    return [Caution(f"{pairs} with an answer that is not among the options; these are listed with the question.")]


def _sample(record: Mapping[str, Any]) -> Sample:
    segments = [Segment(text, _MARKS[kind]) for kind, text in record["segments"]]
    split = record.get("split", "")
    facts = (
        record.get("layout", ""),
        plural(record["pairs"], "pair"),
        plural(sum(len(segment.text) for segment in segments), "character"),
        split if split != "train" else "",
        ", ".join(record.get("styles", ())),
        ", ".join(task.replace("_", " ") for task in record.get("tasks", ())),
    )
    return Sample(segments, [fact for fact in facts if fact])
