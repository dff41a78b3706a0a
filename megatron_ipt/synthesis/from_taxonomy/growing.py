"""How a discipline grows: lists of subjects, subjects, syllabi, sessions, questions, answers (GLAN, section 2).

:meth:`Grower.grow` is written once and runs twice. While calls are made, it asks a model and many calls are in flight,
in any order. When all are answered, it runs again over the journal alone, one node after the other, and what it visits
is written: the output thus follows from the journal, never from the order in which answers came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from megatron_ipt.inference.run import in_order
from megatron_ipt.seeding import generator
from megatron_ipt.synthesis.from_taxonomy.asking import ANSWERS, LISTS, QUESTIONS, SESSIONS, SUBJECTS, SYLLABI, Call
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.journal import Reply
from megatron_ipt.synthesis.from_taxonomy.outline.draws import Draw, Session, draw, reachable
from megatron_ipt.synthesis.from_taxonomy.outline.parsing import (
    Subject,
    merge,
    names_a_session,
    question_in,
    sessions_in,
    subjects_in,
)
from megatron_ipt.synthesis.from_taxonomy.outline.prompts import (
    ANSWER,
    QUESTION,
    QUESTION_ON_TWO,
    SUBJECTS as SUBJECTS_PROMPT,
    SUBJECTS_AS_JSON,
    SYLLABUS,
    SYLLABUS_AS_JSON,
    Prompts,
)
from megatron_ipt.synthesis.from_taxonomy.outline.repeats import repeats
from megatron_ipt.synthesis.from_taxonomy.outline.taxonomy import Discipline, part_of, path_of, same_name

REFUSED, CUT_OFF, LOOP, EMPTY = "refused by the engine", "cut off", "in a loop", "empty"
COPIED = "copied from the prompt"
NO_JSON = "no usable JSON"
NAMES_SESSION = "refers to a session by its number"
_SIDE_BY_SIDE = 64
"""Most nodes of a kind that a parent works on at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Outline = TypeVar("Outline", Subject, Session)
Ask = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Node:
    """A node of the tree.

    Attributes:
        id: names on its path; those of a question end with its draw.
        kind: ``list``, ``subjects``, ``subject``, ``syllabus``, ``sessions``, ``question`` or ``answer``.
        parent: its id.
        text: what the model wrote; empty for a subject.
        facts: what was made of it.
        lost: why it has no further nodes; empty if it has.
        failed: why it has none, where another try follows.
    """

    id: str
    kind: str
    parent: str
    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    lost: str = ""
    failed: str = ""


@dataclass(frozen=True)
class GrownPair:
    """A pair with its place in the tree."""

    id: str
    subject: Subject
    question: str
    answer: str


class Visitor:
    """Is shown everything in the tree in order, on the second run; on the first, nothing looks."""

    def node(self, node: Node) -> None:
        """A call, or a subject."""

    def conversion(self, level: str, attempt: int | None, objects: int, unusable: Counter[str]) -> None:
        """A conversion to JSON succeeded at try ``attempt`` with so many objects, or never; ``unusable`` ones of all
        tries by reason."""

    def merged(self, subjects: int) -> None:
        """So many subjects of the lists were in an earlier one already."""

    def drawn(self, drawn: int, there_are: int, wanted: int) -> None:
        """A subject got this many draws of all possible ones, of so many that were wanted."""

    def questions(self, subject: Subject, questions: Sequence[str], repeated: Sequence[bool]) -> None:
        """The usable questions of a subject in the order of their draws, and which repeat an earlier one."""

    def pair(self, pair: GrownPair) -> None:
        """A question with its answer."""


class Grower:
    """Grows disciplines.

    Args:
        config: section ``taxonomy``.
        prompts: whose examples are no answers.
        seed: of the recipe.
        ask: answers a call.
        visitor: is shown the tree.
        together: nodes of a kind that a parent works on at the same time; 1 visits them in order.
    """

    def __init__(
        self,
        config: TaxonomyConfig,
        prompts: Prompts,
        seed: int,
        ask: Ask,
        visitor: Visitor | None = None,
        together: int = _SIDE_BY_SIDE,
    ):
        self._config = config
        self._subjects_shown = {same_name(item.name) for item in subjects_in(prompts.texts[SUBJECTS_AS_JSON].user)[0]}
        self._sessions_shown = {same_name(item.name) for item in sessions_in(prompts.texts[SYLLABUS_AS_JSON].user)[0]}
        self._seed = seed
        self._ask = ask
        self._visitor = visitor or Visitor()
        self._together = together

    async def grow(self, discipline: Discipline) -> None:
        """Makes all calls of ``discipline``.

        Raises:
            UserError: of the first call that raises; others in flight are cancelled.
        """
        lists = await self._side_by_side(
            lambda number: self._list(discipline, number), range(1, self._config.lists_per_discipline + 1)
        )
        subjects, merged = merge(lists)
        self._visitor.merged(merged)
        most = self._config.max_subjects
        await self._side_by_side(lambda subject: self._subject(discipline, subject), subjects[:most])

    async def _list(self, discipline: Discipline, number: int) -> list[Subject]:
        values = _values(discipline)
        node_id = part_of(discipline.path, f"list {number}")
        reply = await self._ask(Call(node_id, LISTS, SUBJECTS_PROMPT, values))
        lost = _lost_outline(reply)
        self._visitor.node(Node(node_id, "list", discipline.path, reply.text, lost=lost))
        if lost:
            return []
        call = Call(node_id, SUBJECTS, SUBJECTS_AS_JSON, values, (SUBJECTS_PROMPT, reply.text))
        return await self._convert(call, "subjects", subjects_in, self._subjects_shown)

    async def _convert(
        self,
        call: Call,
        kind: str,
        parse: Callable[[str], tuple[list[Outline], Counter[str]]],
        shown: set[str],
    ) -> list[Outline]:
        """What the first successful try of a conversion gives; empty if none is. Names that the prompt shows as an
        example are copied from it."""
        unusable = Counter[str]()
        # Greedy tries are all the same.
        tries = self._config.tries if self._config.generation.temperature else 1
        for attempt in range(1, tries + 1):
            node_id = part_of(call.id, f"{kind} try {attempt}")
            reply = await self._ask(replace(call, id=node_id, attempt=attempt))
            read, wrong = parse(reply.text)
            found = [item for item in read if same_name(item.name) not in shown]
            unusable += wrong + Counter({COPIED: len(read) - len(found)})
            failed = "" if found else _unanswered(reply) or NO_JSON
            last = attempt == tries or bool(reply.unasked)
            names = {"names": [item.name for item in found]} if found else {}
            node = Node(node_id, kind, call.id, reply.text, names)
            self._visitor.node(replace(node, lost=failed) if last else replace(node, failed=failed))
            if found:
                self._visitor.conversion(call.level, attempt, len(found), unusable)
                return found
            if last:
                break
        self._visitor.conversion(call.level, None, 0, unusable)
        return []

    async def _subject(self, discipline: Discipline, subject: Subject) -> None:
        subject_id = path_of(discipline.path, subject.title)
        facts = {"name": subject.name, "level": subject.level, "subtopics": list(subject.subtopics)}
        self._visitor.node(Node(subject_id, "subject", discipline.path, facts=facts))
        values = {
            **_values(discipline),
            "subject": subject.name,
            "level": subject.level or "any",
            "subtopics": ", ".join(subject.subtopics) or "as usual for the subject",
        }
        syllabus_id = part_of(subject_id, "syllabus")
        syllabus = await self._ask(Call(syllabus_id, SYLLABI, SYLLABUS, values, group=subject_id))
        lost = _lost_outline(syllabus)
        self._visitor.node(Node(syllabus_id, "syllabus", subject_id, syllabus.text, lost=lost))
        if lost:
            return
        call = Call(syllabus_id, SESSIONS, SYLLABUS_AS_JSON, values, (SYLLABUS, syllabus.text), group=subject_id)
        sessions = await self._convert(call, "sessions", sessions_in, self._sessions_shown)
        if sessions:
            await self._pairs(discipline, subject, subject_id, {**values, "syllabus": syllabus.text.strip()}, sessions)

    async def _pairs(
        self,
        discipline: Discipline,
        subject: Subject,
        subject_id: str,
        values: dict[str, str],
        sessions: list[Session],
    ) -> None:
        wanted = self._config.questions_of(discipline.weight)
        share = self._config.two_sessions_share
        draws = draw(sessions, wanted, share, generator(self._seed, "draws", subject_id))
        self._visitor.drawn(len(draws), reachable(sessions, share), wanted)
        calls = [_question_call(subject_id, values, sessions, drawn) for drawn in draws]
        # The first question leaves the syllabus in the engine's cache, for all that follow.
        replies = [await self._ask(call) for call in calls[:1]]
        replies += await self._side_by_side(self._ask, calls[1:])
        questions, lost = zip(*map(_question, replies)) if replies else ((), ())
        usable = [number for number, reason in enumerate(lost) if not reason]
        repeated = dict(zip(usable, repeats([questions[number] for number in usable], self._config.near_duplicates)))
        self._visitor.questions(
            subject, [questions[number] for number in usable], [bool(repeated[number]) for number in usable]
        )
        kept = [number for number in usable if not repeated[number]]
        answers = dict(zip(kept, await self._side_by_side(
            self._ask,
            [Call(_answer_id(calls[number]), ANSWERS, ANSWER, {"question": questions[number]}) for number in kept],
        )))  # fmt: skip
        for number, (call, reply) in enumerate(zip(calls, replies)):
            reason = lost[number] or repeated[number]
            drawn = draws[number]
            facts = {
                "sessions": [sessions[place].name for place in drawn.sessions],
                "concepts": drawn.concepts(sessions),
            }
            self._visitor.node(Node(call.id, "question", subject_id, reply.text, facts, reason))
            if reason:
                continue
            answer_id, answer = _answer_id(call), answers[number]
            unusable = _lost(answer)
            self._visitor.node(Node(answer_id, "answer", call.id, answer.text, lost=unusable))
            if not unusable:
                self._visitor.pair(GrownPair(call.id, subject, questions[number], answer.text.strip()))

    async def _side_by_side(self, work: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
        everything = list(items)
        return await in_order(work, everything, min(self._together, len(everything)))


def _values(discipline: Discipline) -> dict[str, str]:
    return {"field": discipline.field, "sub_field": discipline.sub_field, "discipline": discipline.name}


def _question_call(subject_id: str, values: dict[str, str], sessions: list[Session], drawn: Draw) -> Call:
    names = [sessions[place].name for place in drawn.sessions]
    slots = {"session": names[0]} if len(names) == 1 else {"first_session": names[0], "second_session": names[1]}
    concepts = "\n".join(f"- {concept}" for concept in drawn.concepts(sessions))
    prompt = QUESTION if len(names) == 1 else QUESTION_ON_TWO
    node_id = part_of(subject_id, f"question {drawn.label}")
    return Call(node_id, QUESTIONS, prompt, {**values, **slots, "concepts": concepts}, group=subject_id)


def _answer_id(question: Call) -> str:
    return part_of(question.id, "answer")


def _question(reply: Reply) -> tuple[str, str]:
    """The question in a reply, and why it cannot be used."""
    question = question_in(reply.text)
    return question, _lost(reply) or (EMPTY if not question else NAMES_SESSION if names_a_session(question) else "")


def _lost(reply: Reply) -> str:
    """Why a reply cannot be used as a question or an answer; empty if it can."""
    if reply.loop:
        return LOOP
    if not reply.finished:
        return CUT_OFF
    return _lost_outline(reply)


def _lost_outline(reply: Reply) -> str:
    """The same for a list or a syllabus, of which a part is good enough."""
    return _unanswered(reply) or ("" if reply.text.strip() else EMPTY)


def _unanswered(reply: Reply) -> str:
    """Why a call has no answer; empty if it has one."""
    return reply.unasked or (f"{REFUSED}: {reply.refused}" if reply.refused else "")
