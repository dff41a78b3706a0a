"""Applies the rules to one text.

At most one rule takes its answer out of the text; the others are applied to what is left, so that no pair asks about a
sentence that is not shown. What a rule cannot decide from one text alone (wrong options from other documents, the
balance of labels) stays open in :class:`Labelled`. Every random choice depends only on the seed, the id of the text and
its purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from megatron_ipt.seeding import derive, generator, unit_interval
from megatron_ipt.synthesis.from_text.mined.sentences import Sentence, split
from megatron_ipt.synthesis.from_text.pseudo_labels.config import PseudoLabelsConfig
from megatron_ipt.synthesis.from_text.pseudo_labels.cutting import Cut, gap_sentence, lead_summary
from megatron_ipt.synthesis.from_text.pseudo_labels.prose import is_english
from megatron_ipt.synthesis.from_text.pseudo_labels.questions import natural_questions, option, paragraphs
from megatron_ipt.synthesis.from_text.pseudo_labels.sentiment import POSITIVE, sentiment_of
from megatron_ipt.synthesis.from_text.pseudo_labels.topics import TOPICS, topic_of
from megatron_ipt.synthesis.from_text.pseudo_labels.wordings import SENTIMENTS, WORDINGS
from megatron_ipt.synthesis.pairs import Example, Pair

LEAD, GAP, QUESTION, SENTIMENT, TOPIC = (
    "lead_summary", "gap_sentence", "natural_question", "sentiment", "topic",
)  # fmt: skip
GAP_OPENING = "gap_opening"
"""Wording of a gap sentence that opened its text."""
CATEGORIES = {
    LEAD: "summary", GAP: "missing sentence", GAP_OPENING: "summary", QUESTION: "multiple choice",
    SENTIMENT: "sentiment", TOPIC: "topic",
}  # fmt: skip
"""Kind of task by wording."""

NOT_ENGLISH, TOO_LONG = "texts_not_in_english", "texts_too_long_for_rules"
"""Counts of texts to which no rule is applied."""

_CUTS: dict[str, Callable[[str, Sequence[Sentence]], Cut | None]] = {LEAD: lead_summary, GAP: gap_sentence}
_WRONG_TOPICS = 3


@dataclass(frozen=True)
class Finding:
    """A pair that a rule proposes.

    Attributes:
        rule: its name.
        answer: the response; for sentiment, the label.
        options: the choices, the answer among them, without those from other documents.
        question: the text's own, for ``natural_question``.
        label: for rules with a fixed set of labels.
        opening: whether it was taken from the beginning of the text, for a gap sentence.
    """

    rule: str
    answer: str
    options: tuple[str, ...] = ()
    question: str = ""
    label: str = ""
    opening: bool = False

    @property
    def wording(self) -> str:
        """Key of its wordings, and of its category."""
        return GAP_OPENING if self.opening else self.rule

    @property
    def category(self) -> str:
        return CATEGORIES[self.wording]


@dataclass
class Labelled:
    """What the rules found in one text.

    Attributes:
        example: the text as it is shown, without pairs yet.
        findings: in the order in which they become pairs.
        cut: how the text was taken apart, if it was.
        spare: the beginning of one of its paragraphs, a wrong option for other documents; empty if none fits.
        skipped: the count of texts to which no rule was applied that this one belongs to; empty otherwise.
    """

    example: Example
    findings: list[Finding] = field(default_factory=list)
    cut: Cut | None = None
    spare: str = ""
    skipped: str = ""


class Labeller:
    """Applies the rules to texts.

    Args:
        seed: of every draw.
        config: which rules, and how many pairs.
    """

    def __init__(self, seed: int, config: PseudoLabelsConfig):
        self._seed = seed
        self._config = config
        self._shares = {
            LEAD: config.lead_summary_share,
            GAP: config.gap_sentence_share,
            QUESTION: config.natural_question_share,
            SENTIMENT: config.sentiment_share,
            TOPIC: config.topic_share,
        }

    def label(self, example: Example, url: str = "", begins: bool = True) -> Labelled:
        """The text of ``example`` as it is to be shown, and what to ask about it.

        Args:
            example: a text without pairs.
            url: where its document came from, or anything else if that is unknown.
            begins: whether it is the beginning of its document: only that has a lead.
        """
        text = example.text
        if len(text) > self._config.max_text_characters:
            return Labelled(example, skipped=TOO_LONG)
        sentences = split(text)
        if not is_english(text, sentences):
            return Labelled(example, skipped=NOT_ENGLISH)
        found = Labelled(example, spare=self._spare(example.id, sentences))
        if not self._config.max_pairs:
            return found
        cuts = []
        for rule in self._cutting(example.id, begins):
            found.cut = _CUTS[rule](text, sentences)
            if found.cut is not None:
                cuts = [Finding(rule, found.cut.answer, opening=found.cut.opens)]
                text = found.cut.shown
                sentences = split(text)
                found.example = replace(example, text=text)
                break
        others = self._others(example.id, text, sentences, url)
        found.findings = self._ordered(example.id, cuts + self._chosen(example.id, others, len(cuts)))
        return found

    def pair(self, example_id: str, finding: Finding, easy: Sequence[str] = ()) -> Pair:
        """The pair of ``finding``; ``easy`` are options from other documents."""
        name = f"{finding.rule}/{finding.question}"
        answer, options = finding.answer, [*finding.options, *easy]
        if finding.rule == SENTIMENT:
            question, *words = SENTIMENTS[derive(self._seed, example_id, "wording", name) % len(SENTIMENTS)]
            options, answer = words, words[0 if finding.label == POSITIVE else 1]
        else:
            wordings = WORDINGS[finding.wording]
            wording = wordings[derive(self._seed, example_id, "wording", name) % len(wordings)]
            question = wording.replace("{question}", finding.question)
        if options:
            generator(self._seed, example_id, "options", name).shuffle(options)
        return Pair(question, answer, finding.category, tuple(options), task=finding.rule)

    def _applies(self, example_id: str, rule: str) -> bool:
        return unit_interval(self._seed, example_id, rule) < self._shares[rule]

    def _cutting(self, example_id: str, begins: bool) -> list[str]:
        """The rules that may take their answer out of the text, the one to be tried first in front."""
        rules = [rule for rule in _CUTS if self._applies(example_id, rule) and (begins or rule != LEAD)]
        generator(self._seed, example_id, "cut").shuffle(rules)
        return rules

    def _others(self, example_id: str, text: str, sentences: Sequence[Sentence], url: str) -> list[Finding]:
        found = []
        if self._applies(example_id, QUESTION):
            for asked in natural_questions(text, sentences):
                found.append(Finding(QUESTION, asked.answer, (asked.answer, asked.wrong), asked.question))
        if self._applies(example_id, SENTIMENT) and (sentiment := sentiment_of(text)):
            found.append(Finding(SENTIMENT, sentiment, label=sentiment))
        if self._applies(example_id, TOPIC) and (topic := topic_of(url)):
            wrong = generator(self._seed, example_id, "topics").sample(
                [each for each in TOPICS if each != topic], _WRONG_TOPICS
            )
            found.append(Finding(TOPIC, topic, (topic, *wrong), label=topic))
        return found

    def _chosen(self, example_id: str, findings: list[Finding], taken: int) -> list[Finding]:
        """At most as many as a text may have, ``taken`` of which it has already."""
        chosen: list[Finding] = []
        counts: Counter[str] = Counter()
        asked = set()
        for finding in self._ordered(example_id, findings):
            if finding.question in asked or counts[finding.category] >= self._config.max_pairs_per_category:
                continue
            if finding.question:
                asked.add(finding.question)
            counts[finding.category] += 1
            chosen.append(finding)
        return chosen[: self._config.max_pairs - taken]

    def _ordered(self, example_id: str, findings: list[Finding]) -> list[Finding]:
        """In an order drawn by what they ask, so that one more or less does not move the others."""
        return sorted(findings, key=lambda each: derive(self._seed, example_id, "order", each.rule, each.question))

    def _spare(self, example_id: str, sentences: Sequence[Sentence]) -> str:
        if not self._config.natural_question_share:
            return ""
        blocks = paragraphs(sentences)
        return option(blocks[derive(self._seed, example_id, "spare") % len(blocks)]) if blocks else ""
