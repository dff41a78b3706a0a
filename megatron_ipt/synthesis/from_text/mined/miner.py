"""Mines the pairs of one text.

Patterns propose candidates; the choice among them keeps the pairs varied: no sentence is the source of two pairs, no
category exceeds its maximum, and pairs from a connective or a verb are preferred to filled gaps. Every random choice
depends only on the seed, the id of the text and its purpose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from megatron_ipt.seeding import derive, generator, unit_interval
from megatron_ipt.synthesis.from_text.mined.config import MinedConfig
from megatron_ipt.synthesis.from_text.mined.expressions import PERSON, YEAR
from megatron_ipt.synthesis.from_text.mined.grammar import (
    Casing,
    capitalise,
    definition,
    finish,
    invert,
    is_balanced,
    is_noun_phrase,
    is_prose,
    looks_english,
    quote,
    stands_alone,
    tail,
    without_introduction,
)
from megatron_ipt.synthesis.from_text.mined.lexicon import PAST_TENSE, VERBS
from megatron_ipt.synthesis.from_text.mined.patterns import ACRONYM, LINKS, Link, Pattern, candidates
from megatron_ipt.synthesis.from_text.mined.sentences import Sentence, split
from megatron_ipt.synthesis.from_text.mined.values import Value, find_values, keyword_count, telling_words
from megatron_ipt.synthesis.from_text.mined.wordings import WORDINGS
from megatron_ipt.synthesis.pairs import Pair

_YEAR_ANSWER = re.compile(rf"(?:In )?({YEAR})")
_OPENING = re.compile(
    r"^(?:However|Therefore|Thus|Consequently|As a result|Moreover|Furthermore|In addition|Additionally|Also|"
    r"In contrast|By contrast|On the other hand|Nevertheless|Nonetheless|For example|For instance|In other words|"
    r"For this reason|Hence|Accordingly|Similarly|Likewise|Instead|Meanwhile|Indeed|In fact) ?, "
)
_LONGEST_QUOTE = 260
_GAP = "____"


T = TypeVar("T")


@dataclass
class Finding:
    """A pair that could be made.

    Attributes:
        category: of the pair.
        wording: key of the table of wordings.
        answer: the response.
        sources: numbers of the sentences it is about.
        values: what fills the wording.
        options: choices, the answer among them.
        reasoning: steps to the answer.
    """

    category: str
    wording: str
    answer: str
    sources: tuple[int, ...]
    values: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    reasoning: str = ""

    @property
    def name(self) -> str:
        """What its draws are named after."""
        return f"{self.category}/{'+'.join(map(str, self.sources))}"


class Miner:
    """Mines pairs from texts.

    Args:
        seed: of every draw.
        config: how many pairs, of what length.
    """

    def __init__(self, seed: int, config: MinedConfig):
        self._seed = seed
        self._config = config

    def mine(self, example_id: str, text: str, title: str = "") -> tuple[str, list[Pair]]:
        """The text to show and its pairs.

        The text comes back whole, or without its ending when that is the answer of a completion pair, which is then
        the first pair.
        """
        return _Mining(self._seed, self._config, example_id, text, title).run()


class _Mining:
    """One text."""

    def __init__(self, seed: int, config: MinedConfig, example_id: str, text: str, title: str):
        self._seed = seed
        self._config = config
        self._id = example_id
        self._text = text
        self._title = " ".join(title.replace("_", " ").split())
        start = max(0, len(text) - config.window_characters)
        # A window may begin in mid-sentence.
        self._sentences = split(text, start)[1 if start else 0 :]
        shortest, longest = config.min_sentence_characters, config.max_sentence_characters
        self._prose = [n for n, sentence in enumerate(self._sentences) if is_prose(sentence, shortest, longest)]
        self._casing = Casing(text[start:], self._title)
        self._values: dict[int, list[Value]] = {}

    def run(self) -> tuple[str, list[Pair]]:
        if not self._config.max_pairs or not looks_english([self._sentences[n] for n in self._prose]):
            return self._text, []
        shown, pairs = self._completion()
        asked = {pair.question.casefold() for pair in pairs}
        for finding in self._choose(self._config.max_pairs - len(pairs)):
            pair = self._pair(finding)
            if pair.question.casefold() not in asked:
                asked.add(pair.question.casefold())
                pairs.append(pair)
        return shown, pairs

    def _completion(self) -> tuple[str, list[Pair]]:
        config, text = self._config, self._text
        if unit_interval(self._seed, self._id, "completion") >= config.completion_share:
            return text, []
        end = len(text.rstrip())
        # No ending is asked for in which words are missing.
        least = max(config.min_shown_characters, text.rfind("<unk>") + 1)
        cuts = [
            sentence.start
            for before, sentence in zip(self._sentences, self._sentences[1:])
            if before.stop
            and config.min_completion_characters <= end - sentence.start <= config.max_completion_characters
            and sentence.start >= least
        ]
        if not cuts or not self._sentences[-1].stop:
            return text, []
        cut = generator(self._seed, self._id, "completion cut").choice(cuts)
        finding = Finding("text completion", "completion", text[cut:end], ())
        return text[:cut].rstrip(), [self._pair(finding)]

    def _choose(self, count: int) -> list[Finding]:
        """At most ``count`` findings, in the order in which they are asked."""
        told = [*self._titles(), *self._from_patterns(), *self._from_links(), *self._from_acronyms()]
        told.extend(self._order(told))
        taken: list[Finding] = []
        used: set[int] = set()
        per_category: Counter[str] = Counter()
        for finding in self._shuffled(list(told), "told"):
            if len(taken) < count and used.isdisjoint(finding.sources):
                if per_category[finding.category] >= self._config.max_pairs_per_category:
                    continue
                taken.append(finding)
                used.update(finding.sources)
                per_category[finding.category] += 1
        # What almost any sentence allows comes after what the text itself connects, and once each.
        sentences = self._shuffled(list(self._prose), "sentences")
        fillers = [self._clozes(sentences), self._claims(sentences), self._words(sentences)]
        for findings in self._shuffled(fillers, "fillers"):
            if len(taken) < count:
                chosen = next((finding for finding in findings if used.isdisjoint(finding.sources)), None)
                if chosen is not None:
                    taken.append(chosen)
                    used.update(chosen.sources)
        return self._shuffled(taken, "order")

    def _shuffled(self, items: list[T], purpose: str) -> list[T]:
        generator(self._seed, self._id, purpose).shuffle(items)
        return items

    def _pair(self, finding: Finding) -> Pair:
        wordings = WORDINGS[finding.wording]
        wording = wordings[derive(self._seed, self._id, "wording", finding.name) % len(wordings)]
        question = capitalise(wording.format_map(finding.values))
        options = list(finding.options)
        if options:
            generator(self._seed, self._id, "options", finding.name).shuffle(options)
        return Pair(question, finding.answer, finding.category, tuple(options), finding.reasoning)

    def _draw(self, *purpose: str | int) -> float:
        return unit_interval(self._seed, self._id, *purpose)

    def _titles(self) -> Iterator[Finding]:
        if self._draw("title") >= self._config.title_share:
            return
        words = re.findall(r"\w{4,}", self._title.lower())
        text = self._text[:20_000].lower()
        if 2 < len(self._title) <= 120 and "<" not in self._title and any(word[:6] in text for word in words):
            yield Finding("title", "title", self._title, ())

    def _from_patterns(self) -> Iterator[Finding]:
        for number in self._prose:
            sentence = self._sentences[number]
            for pattern in candidates(sentence.core):
                finding = self._match(pattern, number, sentence)
                if finding is not None:
                    yield finding

    def _match(self, pattern: Pattern, number: int, sentence: Sentence) -> Finding | None:
        match = pattern.shape.search(sentence.core)
        if not match and pattern.wants_subject:
            rest = without_introduction(sentence.core)
            match = pattern.shape.search(rest) if rest is not sentence.core else None
        if not match or (pattern.unless and pattern.unless.search(sentence.core)):
            return None
        values = {name: piece.strip(" ,") for name, piece in match.groupdict().items() if piece is not None}
        wording = pattern.wording
        if "subject" in values:
            if not is_noun_phrase(values["subject"]):
                return None
            if wording not in ("who or what", "apposition"):
                values["subject"] = self._casing.inside(values["subject"], values.get("aux") in ("are", "were"))
        if wording == "who or what":
            values["deed"] = tail(values["deed"])
            if len(values["deed"].split()) < 3 or re.search(r"\b(?:it|them|him|there|this|such)\b", values["deed"]):
                return None
        if "statement" in values:
            statement = values["statement"]
            if not stands_alone(statement) or len(statement) > _LONGEST_QUOTE:
                return None
            values["inverted"] = invert(capitalise(statement), self._casing)
            values["quote"] = quote(statement, sentence.stop)
        if "fact" in values:
            if not stands_alone(values["fact"]):
                return None
            values["quote"] = quote(values["fact"], sentence.stop)
        if "link" in values:
            values["Link"], values["link"] = capitalise(values["link"]), values["link"].lower()
        if "tail" in values:
            values["tail"] = tail(values["tail"])
            if not stands_alone(f"{values['tail']} . .") or len(values["tail"]) < 3:
                return None
        if "participle" in values:
            values["past"] = PAST_TENSE.get(values["participle"], values["participle"])
        if "form" in values:
            values["do"], values["verb"] = VERBS[values["form"]]
        if "definition" in values:
            values["definition"] = definition(values["definition"])
        for name, template in pattern.fields.items():
            values[name] = template.format_map(values)
        answer = pattern.answer.format_map(values)
        answer = answer if pattern.category in ("date", "quantity") else finish(answer, sentence.stop)
        if not all(is_balanced(piece) for piece in (answer, *values.values())):
            return None
        if wording in ("why", "when"):
            wording = f"{wording} inverted" if values["inverted"] else wording
        if wording in ("what is", "who was") and "aux" in values:
            wording = self._definition_wording(wording, values)
        finding = Finding(pattern.category, wording, answer, (number,), values)
        if wording == "who or what":
            finding.wording = _subject_wording(values["subject"], values["deed"])
        if "rest" in pattern.shape.groupindex and "rest" not in values:
            values["rest"] = "in all"
        if pattern.category == "date":
            finding.answer = capitalise(finding.answer)
            self._offer_years(finding)
        return finding

    @staticmethod
    def _definition_wording(wording: str, values: dict[str, str]) -> str:
        subject = values["subject"]
        named = subject[:1].isupper() or subject.split()[-1][:1].isupper()
        head = re.split(
            r"\b(?:that|which|who|of|in|from|for|to|by|with|and|whose)\b|,", values["definition"], maxsplit=1
        )[0]
        if named and PERSON.search(head):
            return "who is"
        return "describe" if named or wording == "who was" else "what is"

    def _offer_years(self, finding: Finding) -> None:
        year = _YEAR_ANSWER.fullmatch(finding.answer)
        if year:
            options = self._alternatives(finding, Value("year", year[1], 0, ""))
            if options:
                finding.answer, finding.options = year[1], options

    def _alternatives(self, finding: Finding, value: Value) -> tuple[str, ...]:
        """Options for ``value``: values of its type elsewhere in the text; empty if too few, or by the draw."""
        if value.kind == "name" and not value.group:
            return ()
        if self._draw("options", finding.name) >= self._config.options_share:
            return ()
        core = self._sentences[finding.sources[0]].core
        others = sorted(other for other in self._same_type(value) if other not in core)
        if len(others) < 2:
            return ()
        chosen = generator(self._seed, self._id, "alternatives", finding.name).sample(others, min(3, len(others)))
        return (value.text, *chosen)

    def _same_type(self, value: Value) -> set[str]:
        return {
            other.text
            for number in self._prose
            for other in self._values_of(number)
            if other.kind == value.kind and other.group == value.group and other.text != value.text
        }

    def _values_of(self, number: int) -> list[Value]:
        if number not in self._values:
            self._values[number] = find_values(self._sentences[number].core)
        return self._values[number]

    def _from_links(self) -> Iterator[Finding]:
        usable = set(self._prose)
        for number in self._prose:
            if number - 1 not in usable:
                continue
            first, second = self._sentences[number - 1], self._sentences[number]
            if first.paragraph != second.paragraph:
                continue
            for link in LINKS:
                opening = link.opening.match(second.core)
                if opening:
                    finding = self._link(link, first, second, opening.end(), number)
                    if finding is not None:
                        yield finding
                    break

    @staticmethod
    def _link(link: Link, first: Sentence, second: Sentence, start: int, number: int) -> Finding | None:
        statement = capitalise(_OPENING.sub("", first.core))
        if not stands_alone(statement) or len(statement) > _LONGEST_QUOTE:
            return None
        answer = capitalise(second.core[start:]) + second.stop
        return Finding(
            link.category, link.wording, answer, (number - 1, number), {"quote": quote(statement, first.stop)}
        )

    def _from_acronyms(self) -> Iterator[Finding]:
        for number in self._prose:
            core = self._sentences[number].core
            if "(" not in core:
                continue
            for match in ACRONYM.finditer(core):
                long = _expansion(match["long"], match["short"])
                if long:
                    yield Finding("acronym", "acronym", long, (number,), {"short": match["short"]})

    def _order(self, told: Iterable[Finding]) -> list[Finding]:
        """Which of two dated events came first."""
        dated: list[tuple[int, tuple[int, ...], str]] = []
        for finding in told:
            match = _YEAR_ANSWER.fullmatch(finding.answer)
            statement = finding.values.get("statement", "")
            if finding.category == "date" and match and 0 < len(statement) <= 120:
                stop = self._sentences[finding.sources[0]].stop
                dated.append((int(match[1]), finding.sources, capitalise(statement) + stop))
        dated.sort()
        found = []
        for (year, sources, event), (later, other_sources, other_event) in pairwise(dated):
            if year < later and sources != other_sources:
                reasoning = (
                    f"The text gives {year} for the statement {quote(event, '')} It gives {later} for the statement "
                    f"{quote(other_event, '')} {year} is before {later}."
                )
                both = (*sources, *other_sources)
                found.append(
                    Finding("order of events", "order of events", event, both, {}, (event, other_event), reasoning)
                )
        return found

    def _clozes(self, sentences: list[int]) -> Iterator[Finding]:
        for number in sentences:
            sentence = self._sentences[number]
            core = sentence.core
            if not stands_alone(core) or len(core) < 50 or len(core) > _LONGEST_QUOTE:
                continue
            values = [value for value in self._values_of(number) if core.count(value.text) == 1]
            if values:
                value = values[derive(self._seed, self._id, "cloze", number) % len(values)]
                start, end, kind, answer = value.start, value.end, value.kind, value.text
            else:
                words = [word for word in telling_words(core) if core.count(word) == 1]
                if not words:
                    continue
                answer = words[derive(self._seed, self._id, "cloze", number) % len(words)]
                start, kind = core.index(answer), "word"
                end = start + len(answer)
            gapped = f"{core[:start]}{_GAP}{core[end:]}{sentence.stop}"
            finding = Finding("cloze", f"cloze {kind}", answer, (number,), {"gapped": gapped})
            if values:
                finding.options = self._alternatives(finding, value)
            yield finding

    def _claims(self, sentences: list[int]) -> Iterator[Finding]:
        """Statements to be judged: a sentence of the text as it is, or with a value that stands elsewhere in it."""
        for number in sentences:
            sentence = self._sentences[number]
            core = sentence.core
            if not stands_alone(core) or len(core) > _LONGEST_QUOTE:
                continue
            for value in self._values_of(number):
                others = sorted(other for other in self._same_type(value) if other not in core)
                if value.kind == "name" or not others or core.count(value.text) > 1:
                    continue
                # With two years in a sentence, a changed one may make nonsense of it.
                if value.kind == "year" and len(re.findall(rf"\b{YEAR}\b", core)) > 1:
                    continue
                true = self._draw("claim", number) < 0.5
                claim, reasoning = core, ""
                said = f"The text says: {quote(core, sentence.stop)}"
                if true:
                    reasoning = f"{said} The statement agrees with this."
                else:
                    other = others[derive(self._seed, self._id, "claim value", number) % len(others)]
                    claim = f"{core[: value.start]}{other}{core[value.end :]}"
                    reasoning = f"{said} The statement has {other} in place of {value.text}."
                yield Finding(
                    "entailment", "entailment", str(true), (number,), {"quote": quote(claim, sentence.stop)},
                    ("True", "False"), reasoning if self._draw("claim reasoning", number) < 0.5 else "",
                )  # fmt: skip
                break

    def _words(self, sentences: list[int]) -> Iterator[Finding]:
        for number in sentences:
            sentence = self._sentences[number]
            core = sentence.core
            if not stands_alone(core) or not 50 <= len(core) <= 220:
                continue
            names = [value.text for value in self._values_of(number) if value.kind == "name"]
            words = [*names[:1], *telling_words(core)]
            if len(words) < 3:
                continue
            random = generator(self._seed, self._id, "word to text", number)
            chosen = random.sample(words, min(keyword_count(len(core.split())), len(words)))
            if random.random() < 0.8:
                values = {"words": ", ".join(chosen)}
                yield Finding("word to text", "word to text", core + sentence.stop, (number,), values)
            else:
                chosen.sort(key=core.index)
                values = {"quote": quote(core, sentence.stop)}
                yield Finding("word to text", "text to word", ", ".join(chosen), (number,), values)


def _expansion(long: str, short: str) -> str:
    """The end of ``long`` whose capitals spell ``short``; empty if there is none."""
    words = long.split()
    for first in range(len(words) - 1, -1, -1):
        if not words[first][0].isupper():
            continue
        if "".join(word[0] for word in words[first:] if word[0].isupper()) == short:
            return " ".join(words[first:])
    return ""


_PERSONAL = re.compile(
    r"(?:wrote|published|invented|discovered|taught|married|died|argued|proposed|composed|painted|signed|earned|"
    r"was (?:educated|elected|appointed|crowned|married|buried|named king|succeeded))\b"
)
_ORGANISED = re.compile(
    r"\b(?:Company|University|College|School|River|Church|Museum|Street|Road|Party|Army|Navy|Union|Association|Society|"
    r"Club|Council|Island|Lake|Mountain|Mount|Sea|Ocean|Bridge|Castle|Railway|Station|Act|Treaty|War|Battle|"
    r"League|City|"
    r"Prize|Award|Theatre|Hall|Tower|Park|Institute|Agency|Corporation|Court|Government|Parliament|Empire|Kingdom|"
    r"Republic|States)\b|^The |s$"
)


def _subject_wording(subject: str, deed: str) -> str:
    """Asks with "who" or "what" only where a name and what is told of it leave no doubt."""
    if _ORGANISED.search(subject):
        return "who or what"
    if " " in subject and _PERSONAL.match(deed):
        return "who subject"
    return "who or what"
