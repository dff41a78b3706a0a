"""Renders one chain as one document.

All draws come from one generator seeded with the document's id, so the document does not depend on its shard, its
neighbours or the number of workers. The layout and one pattern of each kind are drawn once per document, so that all
texts of a chain are formatted alike; the order of options is drawn for every question. The document is built as a list
of pieces with their kinds, which is cheap and keeps text, questions and answers distinguishable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_ipt.augment.options import LETTERINGS
from megatron_ipt.augment.patterns import ANSWER, FRAME, QUESTION, TEXT, Pattern, Pool
from megatron_ipt.augment.prepare import (
    CHOICE_REASONING,
    FREE_REASONING,
    PreparedExample,
    PreparedPair,
    prepare_example,
    shared_condition,
)
from megatron_ipt.augment.templates import ANY, NextTurn, Numbered, OptionStyle, PairPattern, Templates
from megatron_ipt.seeding import generator
from megatron_ipt.synthesis.pairs import Chain

TEXT_ONLY = "text"
"""Layout of a document without pairs."""


@dataclass
class Rendered:
    """A document.

    Attributes:
        text: the document.
        layout: ``plain``, ``dialogue``, ``numbered``, ``examples``, ``next_turn``, or ``text`` if there are no pairs.
        text_last: texts come after their pairs.
        texts, pairs: number of texts and pairs written.
        unmatched_options: number of pairs whose answer is not among their options; these options were written with
            the question.
        parts, kinds: pieces of ``text`` and the kind of each: ``text``, ``question``, ``answer`` or ``frame``.
    """

    text: str
    layout: str
    text_last: bool
    texts: int
    pairs: int
    unmatched_options: int
    parts: list[str] = field(repr=False)
    kinds: list[str] = field(repr=False)

    @property
    def segments(self) -> list[tuple[str, str]]:
        """(kind, string) in order, with adjacent pieces of one kind merged; the strings concatenate to ``text``."""
        segments: list[tuple[str, str]] = []
        for kind, part in zip(self.kinds, self.parts):
            if part and segments and segments[-1][0] == kind:
                segments[-1] = (kind, segments[-1][1] + part)
            elif part:
                segments.append((kind, part))
        return segments


def render(chain: Chain, templates: Templates, seed: int) -> Rendered:
    """Renders ``chain`` as one document; does not modify the chain."""
    uniform = generator(seed, "augment", chain.id).random
    examples = [prepare_example(example, templates, uniform) for example in chain.examples]
    counts = [len(example.pairs) for example in examples]
    has_completion = any(example.completion for example in examples)
    if not has_completion and not any(counts):
        layout = TEXT_ONLY
    else:
        layout = templates.layouts["several" if min(counts) >= 2 else "otherwise"].draw(uniform)
        if not any(counts) or not any(example.text for example in examples):
            layout = "plain"
    last = uniform() < templates.text_last_share and layout in ("plain", "dialogue") and not has_completion
    shuffle = uniform() < templates.shuffle_pairs_share
    if shuffle and layout in ("plain", "numbered", "examples"):
        for example in examples:
            example.pairs.sort(key=lambda _: uniform())
    writer = _Writer(templates, uniform, examples)
    separator = templates.text_separators.draw(uniform) if len(examples) > 1 else ""
    write = writer.prepare(layout, last)
    for index, example in enumerate(examples):
        if index:
            writer.frame(separator)
        if example.pairs and not example.text:
            writer.write_without_text(example)
        elif example.pairs:
            write(example)
        else:
            writer.write_text(example)
    unmatched = sum(
        bool(pair.unmatched_options) for example in examples for pair in (example.completion, *example.pairs) if pair
    )
    parts, kinds = writer.parts, writer.kinds
    return Rendered("".join(parts), layout, last, writer.texts, writer.pairs, unmatched, parts, kinds)


class _Writer:
    """The pieces written so far, and the patterns drawn for the document."""

    def __init__(self, templates: Templates, uniform: Callable[[], float], examples: list[PreparedExample]):
        self.parts: list[str] = []
        self.kinds: list[str] = []
        self.texts = 0
        self.pairs = 0
        self._templates = templates
        self._uniform = uniform
        self._asks_of_kind: dict[str, set[str]] = {}
        amounts = set()  # "one" or "several" pairs per text
        for example in examples:
            if example.pairs:
                amounts.add("one" if len(example.pairs) == 1 else "several")
            for pair in example.pairs:
                self._asks_of_kind.setdefault(pair.kind, set()).add(pair.asks)
        self._asks = shared_condition(set().union(*self._asks_of_kind.values()))
        self._amount = shared_condition(amounts)
        self._patterns: dict[str, PairPattern] = {}
        self._apart: dict[str, PairPattern] = {}
        self._styles: dict[tuple[bool, str], OptionStyle] = {}

    def frame(self, string: str) -> None:
        self.parts.append(string)
        self.kinds.append(FRAME)

    def prepare(self, layout: str, text_last: bool) -> Callable[[PreparedExample], None]:
        """Draws the patterns of the layout; returns a function that writes one text with its pairs."""
        templates, asks, uniform = self._templates, self._asks, self._uniform
        if layout in ("plain", "dialogue"):
            frames = templates.frames[f"{layout}.frames_text_last" if text_last else f"{layout}.frames"]
            frame = frames[asks, self._amount].draw(uniform)
            if layout == "plain":
                return lambda example: self._fill(frame, example, pairs=self._write_pairs)
            turn = templates.turns[asks].draw(uniform)
            return lambda example: self._fill(frame, example, pairs=lambda pairs: self._write_turns(pairs, turn))
        if layout == "numbered":
            numbered = templates.numbered[asks].draw(uniform)
            return lambda example: self._write_numbered(example, numbered)
        if layout == "examples":
            examples = templates.examples[asks].draw(uniform)
            return lambda example: self._fill(
                examples,
                example,
                pairs=lambda pairs: self._write_pairs(pairs[:-1]),
                final=lambda pairs: self._write_pairs(pairs[-1:]),
            )
        if layout == "next_turn":
            next_turn = templates.next_turn[asks].draw(uniform)
            return lambda example: self._write_next_turn(example, next_turn)
        return self.write_text

    def write_text(self, example: PreparedExample) -> None:
        """Writes the text and its completion."""
        self.parts.append(example.text)
        self.kinds.append(TEXT)
        self.texts += 1
        if example.completion is not None:
            self.frame("\n\n")
            self._write_pair(example.completion)

    def write_without_text(self, example: PreparedExample) -> None:
        """Writes pairs without a text, such as worked problems, without a frame, because frames refer to a text."""
        self._write_pairs(example.pairs)
        self.texts += 1

    def _fill(self, frame: Pattern, example: PreparedExample, **slots: Callable[[list[PreparedPair]], None]) -> None:
        self.frame(frame.head)
        for slot, after, _ in frame.pieces:
            if slot == "text":
                self.write_text(example)
            else:
                slots[slot](example.pairs)
            self.frame(after)

    def _write_pairs(self, pairs: list[PreparedPair]) -> None:
        separator = ""
        for pair in pairs:
            if separator:
                self.frame(separator)
            separator = self._write_pair(pair)

    def _write_pair(self, pair: PreparedPair) -> str:
        """Writes a pair; returns the separator before the next one."""
        choice = self._patterns.get(pair.kind) or self._draw_pattern(pair.kind)
        values = {"question": pair.question, "answer": pair.answer, "reasoning": pair.reasoning}
        if pair.options:
            self._list_options(pair, choice.inline, choice.need, values)
        elif pair.unmatched_options:
            values["question"] = self._with_options(pair)
        choice.pattern.fill(values, self.parts, self.kinds)
        self.pairs += 1
        return choice.separator

    def _write_turns(self, pairs: list[PreparedPair], turn: PairPattern) -> None:
        for index, pair in enumerate(pairs):
            if index:
                self.frame(turn.separator)
            question, answer = self._sides(pair)
            turn.pattern.fill({"question": question, "answer": answer}, self.parts, self.kinds)
            self.pairs += 1

    def _write_numbered(self, example: PreparedExample, numbered: Numbered) -> None:
        sides = [self._sides(pair) for pair in example.pairs]

        def write(side: int, slot: str, pattern: Pattern) -> None:
            for index, both in enumerate(sides):
                if index:
                    self.frame(numbered.separator)
                pattern.fill({"number": str(index + 1), slot: both[side]}, self.parts, self.kinds)

        def write_answers(_: list[PreparedPair]) -> None:
            write(1, "answer", numbered.answer)
            self.pairs += len(sides)

        self._fill(
            numbered.frame,
            example,
            questions=lambda _: write(0, "question", numbered.question),
            answers=write_answers,
        )

    def _write_next_turn(self, example: PreparedExample, next_turn: NextTurn) -> None:
        turn = PairPattern(next_turn.turn, next_turn.separator, False, ANY)
        question, answer = "", ""

        def write_turns(pairs: list[PreparedPair]) -> None:
            nonlocal question, answer
            self._write_turns(pairs[:-1], turn)
            question, answer = self._sides(pairs[-1])

        def write_side(string: str, kind: str) -> None:
            self.parts.append(string)
            self.kinds.append(kind)

        self._fill(
            next_turn.frame,
            example,
            pairs=write_turns,
            question=lambda _: write_side(question, QUESTION),
            answer=lambda _: write_side(answer, ANSWER),
        )
        self.pairs += 1

    def _sides(self, pair: PreparedPair) -> tuple[str, str]:
        """Question and answer as two strings, for layouts that do not write them next to each other."""
        question, answer = pair.question, pair.answer
        if pair.options:
            asked, answered = self._draw_apart("choice_question"), self._draw_apart("choice_answer")
            values = {"question": question, "answer": answer}
            self._list_options(pair, asked.inline, "letter", values)
            question, answer = asked.pattern.text(values), answered.pattern.text(values)
        elif pair.unmatched_options:
            question = self._with_options(pair)
        if pair.kind in (FREE_REASONING, CHOICE_REASONING):
            question = self._draw_apart("reasoning_question").pattern.text({"question": question})
            answer = self._draw_apart("reasoning_answer").pattern.text({"reasoning": pair.reasoning, "answer": answer})
        return question, answer

    def _list_options(self, pair: PreparedPair, inline: bool, need: str, values: dict[str, str]) -> None:
        """Adds ``options``, ``letter`` and ``choice`` to ``values``."""
        style = self._draw_style(inline, "upper" if pair.keep_letters else need)
        order = list(range(len(pair.options)))
        if not pair.keep_letters:
            uniform = self._uniform
            order.sort(key=lambda _: uniform())
        letter_of = LETTERINGS[style.letters] if style.letters else None
        write, bullet, options, correct = style.item.text, style.bullet, pair.options, pair.correct
        listed, option = [], {"letter": ""}
        for position, index in enumerate(order):
            option["option"] = options[index]
            if letter_of is not None:
                option["letter"] = letter_of(position)
            written = write(option)
            listed.append(bullet + written)
            if index == correct:
                values["letter"] = option["letter"]
                values["choice"] = written
        values["options"] = style.join.join(listed)

    def _with_options(self, pair: PreparedPair) -> str:
        style = self._draw_style(True, "none")
        options = list(pair.unmatched_options)
        options.sort(key=lambda _: self._uniform())
        listed = style.join.join(style.bullet + style.item.text({"option": option}) for option in options)
        return self._draw_apart("unmatched_question").pattern.text({"question": pair.question, "options": listed})

    def _draw_pattern(self, kind: str) -> PairPattern:
        asks = shared_condition(self._asks_of_kind.get(kind, {ANY}))
        self._patterns[kind] = self._templates.pairs[kind][asks].draw(self._uniform)
        return self._patterns[kind]

    def _draw_apart(self, name: str) -> PairPattern:
        if name not in self._apart:
            self._apart[name] = self._templates.apart[name].draw(self._uniform)
        return self._apart[name]

    def _draw_style(self, inline: bool, need: str) -> OptionStyle:
        styles: Pool[OptionStyle] = self._templates.option_styles[inline, need]
        if (inline, need) not in self._styles:
            self._styles[inline, need] = styles.draw(self._uniform)
        return self._styles[inline, need]
