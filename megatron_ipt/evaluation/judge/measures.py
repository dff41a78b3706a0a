"""Figures of pairs that need no model and no gold. Pure; each is defined here and in docs/evaluation.md.

None of them says that a pair is right. Together they show what goes wrong with a synthesizer: no pairs, broken marks,
answers from nowhere, pairs that could belong to any text, the same pair again and again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from megatron_ipt.evaluation.judge.text import content_words, normalised, words
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
from megatron_ipt.synthesis.from_text.prompted.synthesizer import BLANK, EMPTY, REFUSED, TOO_LONG
from megatron_ipt.synthesis.pairs import Example, Pair
from megatron_ipt.synthesis.statistics import Statistics

_OF_TEXTS = (REFUSED, TOO_LONG, BLANK, EMPTY)
"""Reasons that drop a text or a whole completion; all others drop one pair."""
_UNREADABLE = (CUT_OFF, UNFINISHED, OUTSIDE, MALFORMED, NO_QUESTION, NO_ANSWER, NOT_AN_OPTION, BAD_OPTIONS)
"""Reasons of the parser; what else drops a pair is a filter or a repetition."""
_MOST_OPENINGS = 10
_PERCENTILES = (50, 95)


def amounts(examples: Sequence[Example]) -> dict[str, Any]:
    """How many pairs.

    ``share_with_pairs``: texts with one pair or more, of all texts. ``pairs_per_text``: over all texts, as
    mean, percentiles and ``histogram`` (pairs: texts).
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
    """What became of what the engine wrote, from the counts of the stage; empty where a model wrote nothing.

    ``completions``: answers of the model. ``share_with_pairs``: those with one pair or more that was kept.
    ``parse_rate``: pairs that could be read, of all that were begun, cut-off ones and text outside of pairs among them.
    ``kept_share``: pairs left after filters, of all that were begun. ``cut_off_share``: completions that the token
    limit ended within a pair.
    """
    if statistics is None or not statistics.counts.get("requests"):
        return {}
    requests, kept = statistics.counts["requests"], statistics.counts["pairs"]
    of_pairs = {reason: count for reason, count in statistics.dropped.items() if reason not in _OF_TEXTS}
    begun = kept + sum(of_pairs.values())
    readable = begun - sum(of_pairs.get(reason, 0) for reason in _UNREADABLE)
    return {
        "completions": requests,
        "share_with_pairs": statistics.counts["texts_with_pairs"] / requests,
        "parse_rate": readable / begun if begun else None,
        "kept_share": kept / begun if begun else None,
        "cut_off_share": statistics.dropped.get(CUT_OFF, 0) / requests,
        "dropped": dict(statistics.dropped.most_common()),
    }


def lengths(examples: Sequence[Example], count_tokens: Callable[[str], int] | None = None) -> dict[str, Any]:
    """Words (separated by blanks) of questions, answers and reasoning, and of whole pairs, options included.

    Args:
        count_tokens: also counts tokens of pairs as the synthesizer writes them, marks included.
    """
    pairs = list(_pairs(examples))
    figures = {
        "words_per_pair": _spread([_words(_whole(pair)) for pair in pairs]),
        "question_words": _spread([_words(pair.question) for pair in pairs]),
        "answer_words": _spread([_words(pair.answer) for pair in pairs]),
        "reasoning_words": _spread([_words(pair.reasoning) for pair in pairs if pair.reasoning]),
        "text_words": _spread([_words(example.text) for example in examples]),
    }
    if count_tokens is not None:
        figures["tokens_per_pair"] = _spread([count_tokens(render_pair(pair)) for pair in pairs])
    return figures


def grounding(examples: Sequence[Example]) -> dict[str, Any]:
    """Whether answers come from their text.

    ``answer_in_text``: share of pairs whose normalised answer stands in the normalised text, as whole words.
    ``content_words_in_text``: mean share of an answer's content words (all but little words) that the text has;
    ``fully_supported``: share of answers whose content words the text has all. Answers without content words, such as
    yes and no, count for neither (``without_content``: their share).
    """
    found, shares = [], []
    pairs = 0
    for example in examples:
        text = f" {normalised(example.text)} "
        known = set(words(example.text))
        for pair in example.pairs:
            pairs += 1
            answer = normalised(pair.answer)
            found.append(bool(answer) and f" {answer} " in text)
            content = content_words(pair.answer)
            if content:
                shares.append(sum(word in known for word in content) / len(content))
    return {
        "answer_in_text": _mean(found),
        "content_words_in_text": _mean(shares),
        "fully_supported": _mean([share == 1.0 for share in shares]),
        "without_content": (pairs - len(shares)) / pairs if pairs else None,
    }


def repetition(examples: Sequence[Example]) -> dict[str, Any]:
    """Pairs that say nothing new.

    ``duplicate_pairs``: share of pairs whose normalised question and answer occurred before in the output;
    ``duplicate_questions``: the same of questions alone; ``repeated_in_text``: of questions within one text.
    """
    seen_pairs: set[tuple[str, str]] = set()
    seen_questions: set[str] = set()
    repeated: list[tuple[bool, bool, bool]] = []
    for example in examples:
        here: set[str] = set()
        for pair in example.pairs:
            # A cloze sentence or a list of options is part of what is asked.
            question = normalised(" ".join((pair.question, *pair.options)))
            both = (question, normalised(pair.answer))
            repeated.append((both in seen_pairs, question in seen_questions, question in here))
            seen_pairs.add(both)
            seen_questions.add(question)
            here.add(question)
    return {
        "duplicate_pairs": _mean([pair for pair, _, _ in repeated]),
        "duplicate_questions": _mean([question for _, question, _ in repeated]),
        "repeated_in_text": _mean([in_text for _, _, in_text in repeated]),
    }


def diversity(examples: Sequence[Example]) -> dict[str, Any]:
    """How varied the pairs are.

    ``categories`` and ``openings`` (the first two words of a question): how many there are, ``entropy`` in bits,
    ``effective`` = 2 ** entropy, the number of equally frequent ones that would be as varied, and the commonest.
    """
    pairs = list(_pairs(examples))
    categories = Counter(pair.category or "other" for pair in pairs)
    openings = Counter(" ".join(words(pair.question)[:2]) for pair in pairs)
    return {"categories": _variety(categories, len(categories)), "openings": _variety(openings, _MOST_OPENINGS)}


def _pairs(examples: Iterable[Example]) -> Iterable[Pair]:
    return (pair for example in examples for pair in example.pairs)


def _whole(pair: Pair) -> str:
    return " ".join((pair.question, *pair.options, pair.reasoning, pair.answer))


def _words(text: str) -> int:
    return len(text.split())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[int]) -> dict[str, float | None]:
    """Mean, median, 95th percentile (nearest rank) and largest."""
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
