"""What was kept and removed, and because of which test questions: counts that add up over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.decontamination.index import Match
from megatron_ipt.synthesis.words import words_of

PAIR, TEXT, DOCUMENT = "pair holds a test question", "text holds a test question", "document holds a test question"
PAIR_OF_TEXT = "pair of a removed text"
NEAR_DUPLICATE = "near-duplicate of an earlier question"

MOST_QUESTIONS = 10
MOST_SAMPLES, _SAMPLES_EACH = 8, 3
FREQUENT_SHARE, FREQUENT = 0.001, 10
"""A test question that is found in more than this share of everything, and at least so often, is probably a phrase that
is common anyway."""
LARGE_SHARE = 0.05
"""A test set that removes more than this share probably holds much of what the corpus was made from."""
_CONTEXT_WORDS = 12
_SHOWN_WORDS = 60
_SHOWN_CHARACTERS = 200


@dataclass
class Tally:
    """Counts of some shards.

    Attributes:
        counts: what was kept.
        dropped: what was removed, by reason.
        test_sets: by test set, how many pairs, texts and documents hold one of its questions.
        questions: by (test set, number, question), how many pairs, texts and documents hold it.
        samples: a few of what was removed, with the words in common.
    """

    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    test_sets: dict[str, Counter[str]] = field(default_factory=dict)
    questions: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add_matches(self, kind: str, name: str, held: Sequence[tuple[str, str, Match]]) -> None:
        """Counts something that is removed.

        Args:
            kind: what it is, in the plural: ``pairs``, ``texts`` or ``documents``.
            name: its id.
            held: (part of it, text of the part, match) of every test question that it holds.
        """
        for test_set in dict.fromkeys(match.question.test_set for _, _, match in held):
            self.test_sets.setdefault(test_set, Counter())[kind] += 1
        for question in dict.fromkeys(match.question for _, _, match in held):
            self.questions[question.test_set, question.number, question.text[:_SHOWN_CHARACTERS]] += 1
        part, text, match = held[0]
        if self._wants_sample(match.question.test_set):
            self.samples.append({"id": name, "part": part, **sample_of(text, match)})

    def merge(self, other: Tally) -> None:
        self.counts.update(other.counts)
        self.dropped.update(other.dropped)
        for name, counts in other.test_sets.items():
            self.test_sets.setdefault(name, Counter()).update(counts)
        self.questions.update(other.questions)
        for sample in other.samples:
            if self._wants_sample(sample["test_set"]):
                self.samples.append(sample)

    def _wants_sample(self, test_set: str) -> bool:
        """The first few of each test set are kept, so that all sets are shown and there are never many."""
        return sum(sample["test_set"] == test_set for sample in self.samples) < _SAMPLES_EACH

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "dropped": dict(self.dropped),
            "test_sets": {name: dict(counts) for name, counts in self.test_sets.items()},
            "questions": [[*question, count] for question, count in self.questions.items()],
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tally:
        return cls(
            Counter(record["counts"]),
            Counter(record["dropped"]),
            {name: Counter(counts) for name, counts in record["test_sets"].items()},
            Counter({(test_set, number, text): count for test_set, number, text, count in record["questions"]}),
            list(record["samples"]),
        )

    def summary(self) -> dict[str, Any]:
        """What the manifest and the report have of it: the questions found most often, and a few samples."""
        ordered = sorted(self.questions.items(), key=lambda item: (-item[1], item[0]))
        named: list[dict[str, Any]] = [
            {"test_set": test_set, "number": number, "question": text, "found": count}
            for (test_set, number, text), count in ordered
        ]
        compared = self.compared()
        frequent = [row for row in named if row["found"] >= max(FREQUENT, FREQUENT_SHARE * compared)]
        large = {
            name: counts.total() / compared
            for name, counts in self.test_sets.items()
            if counts.total() > LARGE_SHARE * compared and counts.total() >= FREQUENT
        }
        return {
            **dict(self.counts),
            "compared": compared,
            "dropped": dict(self.dropped.most_common()),
            "test_sets": {
                name: dict(counts)
                for name, counts in sorted(self.test_sets.items(), key=lambda item: (-item[1].total(), item[0]))
            },
            "questions": named[:MOST_QUESTIONS],
            "questions_found": len(named),
            "frequent": frequent[:MOST_QUESTIONS],
            "large_test_sets": {name: round(share, 4) for name, share in sorted(large.items())},
            "samples": self.samples[:MOST_SAMPLES],
        }

    def compared(self) -> int:
        """Pairs, texts, documents and records that were compared with the test questions."""
        kept = sum(self.counts[name] for name in ("pairs", "texts", "documents", "records"))
        return kept + self.dropped.total() - self.dropped[NEAR_DUPLICATE]


def total_of(records: Iterable[Mapping[str, Any]]) -> Tally:
    """The sum of what markers of shards hold."""
    total = Tally()
    for record in records:
        total.merge(Tally.from_json(record))
    return total


def sample_of(text: str, match: Match) -> dict[str, Any]:
    """A match with the words around it, as they are compared."""
    words = words_of(text)
    end = match.start + len(match.words)
    return {
        "test_set": match.question.test_set,
        "number": match.question.number,
        "question": match.question.text[:_SHOWN_CHARACTERS],
        "before": " ".join(words[max(0, match.start - _CONTEXT_WORDS) : match.start]),
        "words": shown_words(match),
        "after": " ".join(words[end : end + _CONTEXT_WORDS]),
    }


def shown_words(match: Match) -> str:
    """The words in common, the middle of many left out."""
    if len(match.words) <= _SHOWN_WORDS:
        return " ".join(match.words)
    half = _SHOWN_WORDS // 2
    return f"{' '.join(match.words[:half])} ... {' '.join(match.words[-half:])}"


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """What a person should look at, for the log and the report."""
    found = []
    for row in summary["frequent"]:
        share = row["found"] / max(summary["compared"], 1)
        found.append(
            f"question {row['number']} of {row['test_set']} is in {row['found']:,} of {summary['compared']:,} "
            f"({share:.2%}) and may be a common phrase rather than a test question: {row['question']!r}"
        )
    for name, share in summary["large_test_sets"].items():
        found.append(f"{share:.0%} of everything holds a question of {name}; is it part of what the corpus is made of?")
    return found
