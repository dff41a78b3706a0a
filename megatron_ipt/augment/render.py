"""One chain to one document.

Everything is drawn from one generator that is seeded with the document's id, so a document is the same whatever its
shard, its neighbours or the number of workers. A layout and one pattern of each kind are drawn for a document, so that
the later texts of a chain go on as the earlier ones began; the order of options is drawn for every question. The
document is built as a list of pieces with their kinds, which costs little and tells text, questions and answers apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_ipt.augment.options import LETTERINGS
from megatron_ipt.augment.patterns import ANSWER, FRAME, QUESTION, TEXT, Pattern, Pool
from megatron_ipt.augment.tasks import CHOICE_REASONING, FREE_REASONING, Sheet, Task, common, prepare_example
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
        layout: ``plain``, ``dialogue``, ``numbered``, ``examples``, ``next_turn``, or ``text`` where there are no
            pairs.
        text_last: texts come after their pairs.
        texts, pairs: how many were written.
        unmatched_options: how many pairs have an answer that is none of their options; their options were written
            with the question.
        parts, kinds: the pieces of ``text`` and the kind of each: ``text``, ``question``, ``answer`` or ``frame``.
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
        """(kind, string) in order, neighbours of one kind joined; the strings joined are ``text``."""
        segments: list[tuple[str, str]] = []
        for kind, part in zip(self.kinds, self.parts):
            if part and segments and segments[-1][0] == kind:
                segments[-1] = (kind, segments[-1][1] + part)
            elif part:
                segments.append((kind, part))
        return segments


def render(chain: Chain, templates: Templates, seed: int) -> Rendered:
    """Lays ``chain`` out as one document; the chain stays as it is."""
    uniform = generator(seed, "augment", chain.id).random
    sheets = [prepare_example(example, templates, uniform) for example in chain.examples]
    counts = [len(sheet.tasks) for sheet in sheets]
    has_lead = any(sheet.lead for sheet in sheets)
    if not has_lead and not any(counts):
        layout = TEXT_ONLY
    else:
        layout = templates.layouts["several" if min(counts) >= 2 else "otherwise"].draw(uniform)
        if not any(counts) or not any(sheet.text for sheet in sheets):
            layout = "plain"
    last = uniform() < templates.text_last_share and layout in ("plain", "dialogue") and not has_lead
    shuffle = uniform() < templates.shuffle_pairs_share
    if shuffle and layout in ("plain", "numbered", "examples"):
        for sheet in sheets:
            sheet.tasks.sort(key=lambda _: uniform())
    writer = _Writer(templates, uniform, sheets)
    separator = templates.text_separators.draw(uniform) if len(sheets) > 1 else ""
    write = writer.prepare(layout, last)
    for index, sheet in enumerate(sheets):
        if index:
            writer.frame(separator)
        if sheet.tasks and not sheet.text:
            writer.write_alone(sheet)
        elif sheet.tasks:
            write(sheet)
        else:
            writer.write_text(sheet)
    unmatched = sum(bool(task.unmatched_options) for sheet in sheets for task in (sheet.lead, *sheet.tasks) if task)
    parts, kinds = writer.parts, writer.kinds
    return Rendered("".join(parts), layout, last, writer.texts, writer.pairs, unmatched, parts, kinds)


class _Writer:
    """The pieces of a document so far, and what has been drawn for it."""

    def __init__(self, templates: Templates, uniform: Callable[[], float], sheets: list[Sheet]):
        self.parts: list[str] = []
        self.kinds: list[str] = []
        self.texts = 0
        self.pairs = 0
        self._templates = templates
        self._uniform = uniform
        self._asks_of_kind: dict[str, set[str]] = {}
        amounts = set()
        for sheet in sheets:
            if sheet.tasks:
                amounts.add("one" if len(sheet.tasks) == 1 else "several")
            for task in sheet.tasks:
                self._asks_of_kind.setdefault(task.kind, set()).add(task.asks)
        self._asks = common(set().union(*self._asks_of_kind.values()))
        self._amount = common(amounts)
        self._patterns: dict[str, PairPattern] = {}
        self._apart: dict[str, PairPattern] = {}
        self._styles: dict[tuple[bool, str], OptionStyle] = {}

    def frame(self, string: str) -> None:
        self.parts.append(string)
        self.kinds.append(FRAME)

    def prepare(self, layout: str, text_last: bool) -> Callable[[Sheet], None]:
        """Draws what the layout needs; the result writes one text with its tasks."""
        templates, asks, uniform = self._templates, self._asks, self._uniform
        if layout in ("plain", "dialogue"):
            frames = templates.frames[f"{layout}.frames_text_last" if text_last else f"{layout}.frames"]
            frame = frames[asks, self._amount].draw(uniform)
            if layout == "plain":
                return lambda sheet: self._fill(frame, sheet, pairs=self._write_pairs)
            turn = templates.turns[asks].draw(uniform)
            return lambda sheet: self._fill(frame, sheet, pairs=lambda tasks: self._write_turns(tasks, turn))
        if layout == "numbered":
            numbered = templates.numbered[asks].draw(uniform)
            return lambda sheet: self._write_numbered(sheet, numbered)
        if layout == "examples":
            examples = templates.examples[asks].draw(uniform)
            return lambda sheet: self._fill(
                examples,
                sheet,
                pairs=lambda tasks: self._write_pairs(tasks[:-1]),
                final=lambda tasks: self._write_pairs(tasks[-1:]),
            )
        if layout == "next_turn":
            next_turn = templates.next_turn[asks].draw(uniform)
            return lambda sheet: self._write_next_turn(sheet, next_turn)
        return self.write_text

    def write_text(self, sheet: Sheet) -> None:
        """The text, and the completion that belongs to it."""
        self.parts.append(sheet.text)
        self.kinds.append(TEXT)
        self.texts += 1
        if sheet.lead is not None:
            self.frame("\n\n")
            self._write_pair(sheet.lead)

    def write_alone(self, sheet: Sheet) -> None:
        """Pairs that need no text, such as worked problems: without the frame that would speak of one."""
        self._write_pairs(sheet.tasks)
        self.texts += 1

    def _fill(self, frame: Pattern, sheet: Sheet, **slots: Callable[[list[Task]], None]) -> None:
        self.frame(frame.head)
        for slot, after, _ in frame.pieces:
            if slot == "text":
                self.write_text(sheet)
            else:
                slots[slot](sheet.tasks)
            self.frame(after)

    def _write_pairs(self, tasks: list[Task]) -> None:
        separator = ""
        for task in tasks:
            if separator:
                self.frame(separator)
            separator = self._write_pair(task)

    def _write_pair(self, task: Task) -> str:
        """Returns what stands before the next pair."""
        choice = self._patterns.get(task.kind) or self._draw_pattern(task.kind)
        values = {"question": task.question, "answer": task.answer, "reasoning": task.reasoning}
        if task.options:
            self._list_options(task, choice.inline, choice.need, values)
        elif task.unmatched_options:
            values["question"] = self._with_options(task)
        choice.pattern.fill(values, self.parts, self.kinds)
        self.pairs += 1
        return choice.separator

    def _write_turns(self, tasks: list[Task], turn: PairPattern) -> None:
        for index, task in enumerate(tasks):
            if index:
                self.frame(turn.separator)
            question, answer = self._sides(task)
            turn.pattern.fill({"question": question, "answer": answer}, self.parts, self.kinds)
            self.pairs += 1

    def _write_numbered(self, sheet: Sheet, numbered: Numbered) -> None:
        sides = [self._sides(task) for task in sheet.tasks]

        def write(side: int, slot: str, pattern: Pattern) -> None:
            for index, both in enumerate(sides):
                if index:
                    self.frame(numbered.separator)
                pattern.fill({"number": str(index + 1), slot: both[side]}, self.parts, self.kinds)

        def write_answers(_: list[Task]) -> None:
            write(1, "answer", numbered.answer)
            self.pairs += len(sides)

        self._fill(
            numbered.frame,
            sheet,
            questions=lambda _: write(0, "question", numbered.question),
            answers=write_answers,
        )

    def _write_next_turn(self, sheet: Sheet, next_turn: NextTurn) -> None:
        turn = PairPattern(next_turn.turn, next_turn.separator, False, ANY)
        question, answer = "", ""

        def write_turns(tasks: list[Task]) -> None:
            nonlocal question, answer
            self._write_turns(tasks[:-1], turn)
            question, answer = self._sides(tasks[-1])

        def write_side(string: str, kind: str) -> None:
            self.parts.append(string)
            self.kinds.append(kind)

        self._fill(
            next_turn.frame,
            sheet,
            pairs=write_turns,
            question=lambda _: write_side(question, QUESTION),
            answer=lambda _: write_side(answer, ANSWER),
        )
        self.pairs += 1

    def _sides(self, task: Task) -> tuple[str, str]:
        """Question and answer as two strings, for layouts where they stand apart."""
        question, answer = task.question, task.answer
        if task.options:
            asked, answered = self._draw_apart("choice_question"), self._draw_apart("choice_answer")
            values = {"question": question, "answer": answer}
            self._list_options(task, asked.inline, "letter", values)
            question, answer = asked.pattern.text(values), answered.pattern.text(values)
        elif task.unmatched_options:
            question = self._with_options(task)
        if task.kind in (FREE_REASONING, CHOICE_REASONING):
            question = self._draw_apart("reasoning_question").pattern.text({"question": question})
            answer = self._draw_apart("reasoning_answer").pattern.text({"reasoning": task.reasoning, "answer": answer})
        return question, answer

    def _list_options(self, task: Task, inline: bool, need: str, values: dict[str, str]) -> None:
        """Adds ``options``, ``letter`` and ``choice`` to ``values``."""
        style = self._draw_style(inline, "upper" if task.fixed else need)
        order = list(range(len(task.options)))
        if not task.fixed:
            uniform = self._uniform
            order.sort(key=lambda _: uniform())
        letter_of = LETTERINGS[style.letters] if style.letters else None
        write, bullet, options, right = style.item.text, style.bullet, task.options, task.right
        listed, option = [], {"letter": ""}
        for place, index in enumerate(order):
            option["option"] = options[index]
            if letter_of is not None:
                option["letter"] = letter_of(place)
            written = write(option)
            listed.append(bullet + written)
            if index == right:
                values["letter"] = option["letter"]
                values["choice"] = written
        values["options"] = style.join.join(listed)

    def _with_options(self, task: Task) -> str:
        style = self._draw_style(True, "none")
        options = list(task.unmatched_options)
        options.sort(key=lambda _: self._uniform())
        listed = style.join.join(style.bullet + style.item.text({"option": option}) for option in options)
        return self._draw_apart("unmatched_question").pattern.text({"question": task.question, "options": listed})

    def _draw_pattern(self, kind: str) -> PairPattern:
        asks = common(self._asks_of_kind.get(kind, {ANY}))
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
