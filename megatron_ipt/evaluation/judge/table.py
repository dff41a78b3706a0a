"""Formats the metrics of ``judge`` as text, from one table of rows, formats and headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("amounts", "texts", "texts", "count"),
    ("amounts", "pairs", "pairs", "count"),
    ("amounts", "share_with_pairs", "texts with pairs", "percent"),
    ("amounts", "pairs_per_text", "pairs per text", "spread"),
    ("amounts", "multiple_choice_share", "multiple choice", "percent"),
    ("amounts", "reasoning_share", "with reasoning", "percent"),
    ("parsing", "completions", "completions", "count"),
    ("parsing", "share_with_pairs", "completions with pairs", "percent"),
    ("parsing", "parse_rate", "pairs parsed", "percent"),
    ("parsing", "kept_share", "pairs kept after filters", "percent"),
    ("parsing", "cut_off_share", "completions cut off", "percent"),
    ("lengths", "tokens_per_pair", "tokens per pair", "spread"),
    ("lengths", "words_per_pair", "words per pair", "spread"),
    ("lengths", "question_words", "words per question", "spread"),
    ("lengths", "answer_words", "words per answer", "spread"),
    ("lengths", "reasoning_words", "words per reasoning", "spread"),
    ("grounding", "answer_in_text", "answer found in the text", "percent"),
    ("grounding", "fully_supported", "all content words in the text", "percent"),
    ("grounding", "content_words_in_text", "content words in the text", "percent"),
    ("grounding", "without_content", "answers without content words", "percent"),
    ("relevance", "own_text_first", "own text ranked first", "percent"),
    ("relevance", "mean_reciprocal_rank", "mean reciprocal rank", "number"),
    ("relevance", "texts", "candidate texts", "count"),
    ("repetition", "duplicate_pairs", "duplicate pairs", "percent"),
    ("repetition", "duplicate_questions", "duplicate questions", "percent"),
    ("repetition", "repeated_in_text", "questions repeated in a text", "percent"),
    ("diversity", "categories", "categories", "variety"),
    ("diversity", "openings", "question openings", "variety"),
    ("diversity", "tasks", "tasks of the prompt", "variety"),
    ("diversity", "styles", "prompt styles", "variety"),
    ("gold", "matched_texts", "texts with gold pairs", "count"),
    ("gold", "gold_questions", "gold questions", "count"),
    ("gold", "matched", "matched pairs", "count"),
    ("gold", "coverage", "gold questions with a match", "percent"),
    ("gold", "question_f1", "F1 of assigned questions", "percent"),
    ("gold", "exact_match", "exact match of matched answers", "percent"),
    ("gold", "f1", "F1 of matched answers", "percent"),
    ("response", "questions", "gold questions asked", "count"),
    ("response", "answered", "answered", "count"),
    ("response", "exact_match", "exact match", "percent"),
    ("response", "f1", "F1 of answers", "percent"),
)
"""(group of the result, key, label, format)."""

_HEADINGS = {
    "amounts": "Pairs",
    "parsing": "Completions",
    "lengths": "Lengths",
    "grounding": "Grounding",
    "relevance": "Relevance, by retrieval",
    "repetition": "Repetition",
    "diversity": "Diversity",
    "gold": "Against gold pairs",
    "response": "Answers to gold questions",
}


class Figure(NamedTuple):
    """One metric: heading of its group, label and value."""

    group: str
    label: str
    value: str


def figures_of(result: Mapping[str, Any]) -> list[Figure]:
    """The available metrics, in order."""
    figures = []
    for name, key, label, form in _ROWS:
        value = result.get(name, {}).get(key)
        if value is not None and not _is_empty(value, form):
            figures.append(Figure(_HEADINGS[name], label, _text(value, form)))
    return figures


def _is_empty(value: Any, form: str) -> bool:
    return (form == "spread" and value["mean"] is None) or (form == "variety" and not value["distinct"])


def render(result: Mapping[str, Any]) -> str:
    """The available metrics, one per line, with a heading per group."""
    lines: list[str] = []
    group = ""
    for figure in figures_of(result):
        if figure.group != group:
            lines += ([""] if lines else []) + [figure.group]
            group = figure.group
        lines.append(f"  {figure.label:<32}{figure.value}")
    return "\n".join(lines)


def _text(value: Any, form: str) -> str:
    if form == "count":
        return f"{value:,}"
    if form == "percent":
        return f"{100 * value:.1f} %"
    if form == "number":
        return f"{value:.3f}"
    if form == "spread":
        return f"{value['mean']:.2f}  (median {value['p50']:,}, p95 {value['p95']:,}, max {value['most']:,})"
    common = ", ".join(f"{name or '-'} {count:,}" for name, count in list(value["most_common"].items())[:5])
    return f"{value['distinct']:,}, effective number {value['effective']:.1f}  ({common})"
