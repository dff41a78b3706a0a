"""Counts per shard and in total: what was made, how long it is, what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.synthesis.from_text.categories import OTHER
from megatron_ipt.synthesis.pairs import Chain, Pair

REFUSED_TEXTS = "refused_texts"
ANSWERS_CUT_OFF = "answers_cut_off"
ANSWERS_FROM_PROMPT = "answers_copied_from_prompt"
ANSWERS_FROM_EXAMPLE = "answers_copied_from_example"
ANSWERS_OTHER_LANGUAGE = "answers_in_another_language"
ANSWERS_DECLINED = "answers_declined_by_model"
ANSWERS_IN_LOOPS = "answers_stopped_at_repeats"
REPEATED_TEXTS = "texts_with_repeated_pairs"
SHORT_ANSWERS, SHORT_NOT_IN_TEXT = "short_answers", "short_answers_not_in_text"
"""Counts of texts that the engine did not answer and of defects in its answers, absent if there are none, and of the
short answers that are compared with their text."""

ROUGE_BIN_PERCENT = 5
LABEL_BALANCE, GAP_ROUGE = "labels", "gap_rouge"
OPTIONS_COMPARED, LONGEST_IS_RIGHT = "options_compared", "longest_option_is_right"
"""Tallies: pairs by rule and label; gap sentences by the lower end of their ROUGE; multiple-choice pairs by task and
number of options where one option is the longest, and those of them where it is the right one."""

_LENGTHS = ("question_words", "answer_words", "reasoning_words", "pairs_per_text", "texts_per_chain")
_PERCENTILES = (50, 95)


@dataclass
class Statistics:
    """Counts that add up over shards.

    Attributes:
        counts: chains, texts, pairs, tokens and whatever else is counted.
        categories: number of pairs by kind of task.
        tasks: number of pairs by what the model was asked to do, for prompt styles with several tasks, or by rule.
        styles: number of pairs by prompt style, where several are mixed.
        dropped: number of drops by reason.
        lengths: histograms by name, each from value to frequency.
        tallies: further counts by name and key, absent from what is written if there are none.
    """

    counts: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in _LENGTHS})
    tallies: dict[str, Counter[str]] = field(default_factory=dict)

    def add_chain(self, chain: Chain) -> None:
        self.counts["chains"] += 1
        self.lengths["texts_per_chain"][len(chain.examples)] += 1
        for example in chain.examples:
            self.counts["texts"] += 1
            self.counts["documents"] += "#" not in example.id
            self.counts["texts_with_pairs"] += bool(example.pairs)
            self.counts["pairs"] += len(example.pairs)
            self.lengths["pairs_per_text"][len(example.pairs)] += 1
            for pair in example.pairs:
                self.categories[pair.category or OTHER] += 1
                if pair.task:
                    self.tasks[pair.task] += 1
                if pair.style:
                    self.styles[pair.style] += 1
                self.lengths["question_words"][len(pair.question.split())] += 1
                self.lengths["answer_words"][len(pair.answer.split())] += 1
                if pair.reasoning:
                    self.lengths["reasoning_words"][len(pair.reasoning.split())] += 1
                if pair.options:
                    self._compare_options(pair)

    def tally(self, name: str, key: str, count: int = 1) -> None:
        self.tallies.setdefault(name, Counter())[key] += count

    def _compare_options(self, pair: Pair) -> None:
        """Whether the right option could be told by its length."""
        longest, second = sorted(map(len, pair.options), reverse=True)[:2] if len(pair.options) > 1 else (0, 0)
        if longest > second and pair.answer in pair.options:
            key = f"{pair.task or pair.category or OTHER}: {len(pair.options)}"
            self.tally(OPTIONS_COMPARED, key)
            self.tally(LONGEST_IS_RIGHT, key, int(len(pair.answer) == longest))

    def merge(self, other: Statistics) -> None:
        self.counts.update(other.counts)
        self.categories.update(other.categories)
        self.tasks.update(other.tasks)
        self.styles.update(other.styles)
        self.dropped.update(other.dropped)
        for name, histogram in other.lengths.items():
            self.lengths[name].update(histogram)
        for name, counter in other.tallies.items():
            self.tallies.setdefault(name, Counter()).update(counter)

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "categories": dict(self.categories),
            **({"tasks": dict(self.tasks)} if self.tasks else {}),
            **({"styles": dict(self.styles)} if self.styles else {}),
            "dropped": dict(self.dropped),
            "lengths": {
                name: {str(value): n for value, n in histogram.items()} for name, histogram in self.lengths.items()
            },
            **({"tallies": {name: dict(counts) for name, counts in self.tallies.items()}} if self.tallies else {}),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Statistics:
        lengths = {
            name: Counter({int(value): n for value, n in items.items()}) for name, items in record["lengths"].items()
        }
        counts, categories, tasks, styles, dropped = (
            Counter(record.get(name, {})) for name in ("counts", "categories", "tasks", "styles", "dropped")
        )
        tallies = {name: Counter(items) for name, items in record.get("tallies", {}).items()}
        return cls(counts, categories, tasks, styles, dropped, lengths, tallies)

    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        texts = self.counts["texts"]
        plain = ("chains", "texts", "texts_with_pairs", "pairs")
        rest = sorted(name for name in self.counts if name not in plain and name != "documents")
        return {
            **{name: self.counts[name] for name in plain},
            "pairs_per_text": round(self.counts["pairs"] / texts, 3) if texts else 0.0,
            **{name: self.counts[name] for name in rest},
            "categories": dict(self.categories.most_common()),
            **({"tasks": dict(self.tasks.most_common())} if self.tasks else {}),
            **({"styles": dict(self.styles.most_common())} if self.styles else {}),
            "lengths": {name: _describe(histogram) for name, histogram in self.lengths.items() if histogram},
            "dropped": dict(self.dropped.most_common()),
            **{name: dict(sorted(counts.items())) for name, counts in sorted(self.tallies.items())},
        }


def total_of(records: Iterable[dict[str, Any]]) -> Statistics:
    """The sum over shards, from what their markers hold."""
    total = Statistics()
    for record in records:
        total.merge(Statistics.from_json(record))
    return total


def _describe(histogram: Counter[int]) -> dict[str, float]:
    count = histogram.total()
    result: dict[str, float] = {"mean": round(sum(value * n for value, n in histogram.items()) / count, 2)}
    for percentile in _PERCENTILES:
        seen = 0
        for value in sorted(histogram):
            seen += histogram[value]
            if seen * 100 >= percentile * count:
                result[f"p{percentile}"] = value
                break
    return result | {"most": max(histogram)}
