"""What the page about a run shows of this room: how many pairs were made for how many texts, and of which kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.manifest import USAGE
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.stages.page import (
    Bars,
    Caution,
    Column,
    Figure,
    Figures,
    Part,
    Row,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import MISSING, compact, exact, number, percent, plural
from megatron_ipt.synthesis.from_text.prompted.health import FEW_PAIRS, MOST, MOST_SHORT
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.synthesis.statistics import (
    ANSWERS_CUT_OFF,
    ANSWERS_DECLINED,
    ANSWERS_FROM_EXAMPLE,
    ANSWERS_FROM_PROMPT,
    ANSWERS_OTHER_LANGUAGE,
    GAP_ROUGE,
    LABEL_BALANCE,
    LONGEST_IS_RIGHT,
    OPTIONS_COMPARED,
    REPEATED_TEXTS,
    ROUGE_BIN_PERCENT,
    SHORT_ANSWERS,
    SHORT_NOT_IN_TEXT,
)


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
            *_cautions(counts),
            Bars("Pairs by category", counts["categories"]),
            *([Bars("Pairs by prompt style", counts["styles"])] if counts.get("styles") else []),
            *([Bars(f"Pairs by {_named_by(stage)}", counts["tasks"])] if counts.get("tasks") else []),
            *_labels(counts),
            *_longest_options(counts),
            Bars("Dropped, by reason", counts.get("dropped", {})),
            *_used(counts),
        ],
    )


def _named_by(stage: StageRecord) -> str:
    """What ``Pair.task`` is in this run."""
    made_by = source_named(str(stage.settings.get("engine", ""))).kind
    return "rule" if made_by == "documents" else "task of the prompt"


def _labels(counts: Mapping[str, Any]) -> list[Bars]:
    """What rules that label texts found."""
    bars = []
    if counts.get(LABEL_BALANCE):
        bars.append(Bars("Pairs by label", counts[LABEL_BALANCE], in_order=True))
    if counts.get(GAP_ROUGE):
        bins = {
            f"{low} to {float(low) + ROUGE_BIN_PERCENT / 100:.2f}": count for low, count in counts[GAP_ROUGE].items()
        }
        note = "How many of its words a sentence that was taken out shares with the rest; at least 0.20."
        bars.append(Bars("ROUGE-1 F1 of gap sentences with their text", bins, in_order=True, note=note))
    return bars


def _longest_options(counts: Mapping[str, Any]) -> list[Table]:
    """Whether the right option can be told by its length."""
    rows = []
    for key, compared in counts.get(OPTIONS_COMPARED, {}).items():
        name, _, options = key.rpartition(": ")
        right = counts.get(LONGEST_IS_RIGHT, {}).get(key, 0)
        rows.append(Row((name, options, exact(compared), percent(right / compared), percent(1 / int(options)))))
    columns = (Column("Pairs", numeric=False), *map(Column, ("options", "pairs", "longest is right", "by chance")))
    note = "Only pairs in which one option is longer than all others."
    return [Table(columns, rows, "Is the longest option the right one?", note=note)] if rows else []


def _used(counts: Mapping[str, Any]) -> list[Figures]:
    """What the answers of the model took, whatever became of them."""
    usage = counts.get(USAGE)
    if not usage:
        return []
    kept = counts.get("requests", 0)
    figures = [
        Figure(
            "answers",
            exact(usage["answers"]),
            f"{exact(kept)} of them for finished texts" if kept < usage["answers"] else "",
        ),
        Figure(
            "tokens in",
            compact(usage["prompt_tokens"]),
            f"{compact(usage['cached_tokens'])} of them cached" if usage["cached_tokens"] else "",
        ),
        Figure("tokens out", compact(usage["generated_tokens"])),
    ]
    if usage["unanswered"]:
        figures.append(Figure("requests without an answer", exact(usage["unanswered"]), "their cost is unknown"))
    if "cost" in usage:
        figures.append(Figure("cost", f"{number(usage['cost'])} {usage['currency']}"))
    return [Figures(figures)]


def _cautions(counts: Mapping[str, Any]) -> list[Caution]:
    """What is wrong with the pairs, by the limits with which the stage warns."""
    texts, with_pairs, requests = counts["texts"], counts["texts_with_pairs"], counts.get("requests", 0)
    cautions = []
    if texts and not with_pairs:
        cautions.append("No text got a pair.")
    elif requests and with_pairs < FEW_PAIRS * texts:
        cautions.append(f"Only {exact(with_pairs)} of {plural(texts, 'text')} got a pair.")
    elif requests and with_pairs < MOST * texts:
        cautions.append(f"{exact(texts - with_pairs)} of {plural(texts, 'text')} got no pair.")
    for name, of, most, defect in (
        (
            ANSWERS_CUT_OFF, requests, MOST,
            "answers were cut off at the token limit (`synthesis.generation.max_new_tokens`).",
        ),
        (ANSWERS_FROM_PROMPT, requests, MOST, "answers were copied from the prompt."),
        (ANSWERS_FROM_EXAMPLE, requests, MOST, "answers only repeated the example in the prompt."),
        (ANSWERS_DECLINED, requests, MOST, "answers declined the request."),
        (ANSWERS_OTHER_LANGUAGE, requests, MOST, "answers were in another language than their text."),
        (SHORT_NOT_IN_TEXT, counts.get(SHORT_ANSWERS, 0), MOST_SHORT, "short answers share no word with their text."),
        (REPEATED_TEXTS, with_pairs, MOST, "texts with pairs got the same questions as an earlier text."),
    ):  # fmt: skip
        count = counts.get(name, 0)
        if count > most * of:
            cautions.append(f"{exact(count)} of {exact(of)} {defect}")
    return [Caution(text) for text in cautions]
