"""Metrics of pairs that need neither a model nor gold pairs, defined here and in docs/evaluation.md.

None of them shows that a pair is correct. Together they show how a synthesizer fails: no pairs, malformed markers,
answers not supported by the text, pairs that would fit any text, repeated pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from megatron_ipt.evaluation.judge.text import content_words, normalised, words
from megatron_ipt.synthesis.from_text.prompted.health import EMPTY, REFUSED
from megatron_ipt.synthesis.from_text.prompted.marks import render_pair
from megatron_ipt.synthesis.from_text.prompted.parsing import (
    BAD_OPTIONS,
    CUT_OFF,
    MALFORMED,
    NO_ANSWER,
    NO_QUESTION,
    NOT_AN_OPTION,
    OUTSIDE,
    UNFINISHED,
)
from megatron_ipt.synthesis.from_text.prompted.synthesizer import BLANK, TOO_LONG
from megatron_ipt.synthesis.pairs import Example, Pair
from megatron_ipt.synthesis.statistics import Statistics

_OF_TEXTS = (REFUSED, TOO_LONG, BLANK, EMPTY)
"""Reasons for dropping a text or a whole completion; all others drop one pair."""
_NOT_PARSED = (CUT_OFF, UNFINISHED, OUTSIDE, MALFORMED, NO_QUESTION, NO_ANSWER, NOT_AN_OPTION, BAD_OPTIONS)
"""Reasons given by the parser; other reasons for dropping a pair are filters and repetition."""
_MOST_OPENINGS = 10
_PERCENTILES = (50, 95)


def amounts(examples: Sequence[Example]) -> dict[str, Any]:
    """Number of pairs.

    ``share_with_pairs``: fraction of texts with one or more pairs. ``pairs_per_text``: mean, percentiles and
    ``histogram`` (number of pairs to number of texts) over all texts.
    """
    counts = [len(example.pairs) for example in examples]
    return {
        "texts": len(examples),
        "pairs": sum(counts),
        "share_with_pairs": _mean([count > 0 for count in counts]),
        "pairs_per_text": {
            **_spread(counts),
            "histogram": {str(n): texts for n, texts in sorted(Counter(counts).items())},
        },
        "multiple_choice_share": _mean([bool(pair.options) for pair in _pairs(examples)]),
        "reasoning_share": _mean([bool(pair.reasoning) for pair in _pairs(examples)]),
    }


def parsing(statistics: Statistics | None) -> dict[str, Any]:
    """Results of parsing the engine's completions, from the stage's counts; empty if no model was used.

    ``completions``: number of completions. ``share_with_pairs``: fraction of completions with one or more kept pairs.
    ``parse_rate``: fraction of pairs that were parsed, out of all that were started, including cut-off ones and text
    outside of pairs. ``kept_share``: fraction left after filters, out of all that were started. ``cut_off_share``:
    fraction of completions that hit the token limit within a pair.
    """
    if statistics is None or not statistics.counts.get("requests"):
        return {}
    requests, kept = statistics.counts["requests"], statistics.counts["pairs"]
    of_pairs = {reason: count for reason, count in statistics.dropped.items() if reason not in _OF_TEXTS}
    started = kept + sum(of_pairs.values())
    parsed = started - sum(of_pairs.get(reason, 0) for reason in _NOT_PARSED)
    return {
        "completions": requests,
        "share_with_pairs": statistics.counts["texts_with_pairs"] / requests,
        "parse_rate": parsed / started if started else None,
        "kept_share": kept / started if started else None,
        "cut_off_share": statistics.dropped.get(CUT_OFF, 0) / requests,
        "dropped": dict(statistics.dropped.most_common()),
    }


def lengths(examples: Sequence[Example], count_tokens: Callable[[str], int] | None = None) -> dict[str, Any]:
    """Whitespace-separated words per question, answer and reasoning, and per pair, including options.

    Args:
        count_tokens: if given, also used to count tokens of pairs as the synthesizer writes them, including markers.
    """
    pairs = list(_pairs(examples))
    figures = {
        "words_per_pair": _spread([_words(_full_text(pair)) for pair in pairs]),
        "question_words": _spread([_words(pair.question) for pair in pairs]),
        "answer_words": _spread([_words(pair.answer) for pair in pairs]),
        "reasoning_words": _spread([_words(pair.reasoning) for pair in pairs if pair.reasoning]),
        "text_words": _spread([_words(example.text) for example in examples]),
    }
    if count_tokens is not None:
        figures["tokens_per_pair"] = _spread([count_tokens(render_pair(pair)) for pair in pairs])
    return figures


def grounding(examples: Sequence[Example]) -> dict[str, Any]:
    """Whether answers are supported by their text.

    ``answer_in_text``: fraction of pairs whose normalised answer occurs in the normalised text, as whole words.
    ``content_words_in_text``: mean fraction of an answer's content words (excluding stop words) that occur in the text;
    ``fully_supported``: fraction of answers whose content words all occur in the text. Both exclude answers without
    content words, such as yes and no (``without_content``: their fraction).
    """
    found: list[bool] = []
    shares = []
    pairs = 0
    for example in examples:
        known = set(words(example.text))
        found += in_text(example)
        for pair in example.pairs:
            pairs += 1
            content = content_words(pair.answer)
            if content:
                shares.append(sum(word in known for word in content) / len(content))
    return {
        "answer_in_text": _mean(found),
        "content_words_in_text": _mean(shares),
        "fully_supported": _mean([share == 1.0 for share in shares]),
        "without_content": (pairs - len(shares)) / pairs if pairs else None,
    }


def in_text(example: Example) -> list[bool]:
    """Of each pair, whether its normalised answer occurs in the normalised text, as whole words."""
    text = f" {normalised(example.text)} "
    answers = [normalised(pair.answer) for pair in example.pairs]
    return [bool(answer) and f" {answer} " in text for answer in answers]


def repetition(examples: Sequence[Example]) -> dict[str, Any]:
    """Duplicate pairs and questions.

    ``duplicate_pairs``: fraction of pairs whose normalised question and answer occurred earlier in the output;
    ``duplicate_questions``: the same for questions alone; ``repeated_in_text``: for questions within one text.
    """
    seen_pairs: set[tuple[str, str]] = set()
    seen_questions: set[str] = set()
    repeated: list[tuple[bool, bool, bool]] = []
    for example in examples:
        in_this_text: set[str] = set()
        for pair in example.pairs:
            # Options are part of the question.
            question = normalised(" ".join((pair.question, *pair.options)))
            both = (question, normalised(pair.answer))
            repeated.append((both in seen_pairs, question in seen_questions, question in in_this_text))
            seen_pairs.add(both)
            seen_questions.add(question)
            in_this_text.add(question)
    return {
        "duplicate_pairs": _mean([pair for pair, _, _ in repeated]),
        "duplicate_questions": _mean([question for _, question, _ in repeated]),
        "repeated_in_text": _mean([in_text for _, _, in_text in repeated]),
    }


def diversity(examples: Sequence[Example]) -> dict[str, Any]:
    """Diversity of pairs.

    For ``categories``, ``openings`` (the first two words of a question), and ``tasks`` and ``styles`` of prompts where
    pairs record them: number of distinct values, ``entropy`` in
    bits, effective number (2 ** entropy), and the most common values.
    """
    pairs = list(_pairs(examples))
    categories = Counter(pair.category or "other" for pair in pairs)
    openings = Counter(" ".join(words(pair.question)[:2]) for pair in pairs)
    tasks = Counter(pair.task for pair in pairs if pair.task)
    styles = Counter(pair.style for pair in pairs if pair.style)
    return {
        "categories": _variety(categories, len(categories)),
        "openings": _variety(openings, _MOST_OPENINGS),
        "tasks": _variety(tasks, len(tasks)),
        "styles": _variety(styles, len(styles)),
    }


def _pairs(examples: Iterable[Example]) -> Iterable[Pair]:
    return (pair for example in examples for pair in example.pairs)


def _full_text(pair: Pair) -> str:
    return " ".join((pair.question, *pair.options, pair.reasoning, pair.answer))


def _words(text: str) -> int:
    return len(text.split())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[int]) -> dict[str, float | None]:
    """Mean, median, 95th percentile (nearest rank) and maximum."""
    if not values:
        return {"mean": None, "p50": None, "p95": None, "most": None}
    ordered = sorted(values)
    ranks = {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in _PERCENTILES}
    return {"mean": sum(values) / len(values), **ranks, "most": ordered[-1]}


def _variety(counts: Counter[str], most: int) -> dict[str, Any]:
    total = counts.total()
    entropy = -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0
    return {
        "distinct": len(counts),
        "entropy": entropy,
        "effective": 2**entropy if total else 0.0,
        "most_common": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]),
    }
