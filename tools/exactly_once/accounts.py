"""What a benchmark of kills counts, from the server's log and the output alone. Pure functions.

The server sees every request and knows which answers it sent completely; the output says what arrived. Nothing here
trusts what a tool reports about itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

ASKED, ANSWERED, DROPPED, CONTACT, LIFE = "asked", "answered", "dropped", "contact", "life"

STARTING = "while it starts"
RESUMING = "while it reads what is on disk"
ASKING = "while it asks"
FINISHING = "after the last answer"
PHASES = (STARTING, RESUMING, ASKING, FINISHING)


@dataclass(frozen=True)
class Event:
    """A line of the server's log.

    Attributes:
        time: seconds of the monotonic clock, which all processes of a machine share.
        kind: ``asked``; ``answered`` (sent completely), ``dropped`` (the client was gone before); ``contact``, for any
            other request; ``life``, when a process has ended.
        life: number of the process that asked.
        document: id found in the prompt.
        probe: the request asked for one token only, as clients do to check a server.
    """

    time: float
    kind: str
    life: int
    document: str = ""
    probe: bool = False


@dataclass(frozen=True)
class Life:
    """One process of the tool under test.

    Attributes:
        number: as in the events.
        ended: when it ended or was killed, by the monotonic clock.
        kept: documents that were finished on disk when it ended, if the tool's files can tell.
        writing: whether it left an unfinished output file.
    """

    number: int
    ended: float
    kept: frozenset[str] = frozenset()
    writing: bool = False


@dataclass
class Account:
    """Counts over one or more runs, each from an empty folder to the complete output.

    Attributes:
        lost: documents that are not in the output.
        doubled: documents that are in the output more than once, each further time counted.
        asked_again: answers that the server had sent completely, and that were asked for again later.
        beyond_flight: those that exceed what was in flight at their kill.
        kept_asked_again: requests for documents that were finished on disk when the process started.
        most_per_kill: maximum of ``asked_again`` for one kill.
        oldest: maximum age in seconds, at the kill, of an answer that was asked for again; None where none was, or
            where no server logged when it was sent.
        requests, probes: that the server received.
    """

    lost: int = 0
    doubled: int = 0
    asked_again: int = 0
    beyond_flight: int = 0
    kept_asked_again: int = 0
    most_per_kill: int = 0
    oldest: float | None = None
    requests: int = 0
    probes: int = 0

    def __add__(self, other: Account) -> Account:
        added = {
            name: value + getattr(other, name)
            for name, value in vars(self).items()
            if name not in ("most_per_kill", "oldest")
        }
        ages = [age for age in (self.oldest, other.oldest) if age is not None]
        most = max(self.most_per_kill, other.most_per_kill)
        return Account(**added, most_per_kill=most, oldest=max(ages, default=None))


@dataclass
class Run:
    """From an empty folder to the complete output, through any number of kills."""

    events: list[Event] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)


def account(corpus: Collection[str], output: Iterable[str], run: Run, in_flight: int) -> Account:
    """The counts of one complete run.

    Args:
        corpus: ids of all documents.
        output: ids in the output, as often as they occur.
        run: its events and processes.
        in_flight: documents that the tool works on at the same time: the most answers that a kill may cost.
    """
    found = Counter(output)
    result = Account(
        lost=sum(found[document] == 0 for document in corpus),
        doubled=sum(count - 1 for count in found.values() if count > 1),
        requests=sum(event.kind == ASKED and not event.probe for event in run.events),
        probes=sum(event.kind == ASKED and event.probe for event in run.events),
    )
    ends = {life.number: life.ended for life in run.lives}
    before = kept_before(run.lives)
    per_life: Counter[int] = Counter()
    last_answer: dict[str, Event] = {}
    for event in sorted(run.events, key=lambda event: (event.life, event.time)):
        if event.probe:
            continue
        if event.kind == ANSWERED:
            last_answer[event.document] = event
        elif event.kind == ASKED:
            result.kept_asked_again += event.document in before[event.life]
            # Taken out, so that an answer that is asked for again twice is counted once.
            earlier = last_answer.pop(event.document, None)
            if earlier is not None:
                per_life[earlier.life] += 1
                if earlier.life != event.life:
                    result.oldest = max(result.oldest or 0.0, ends[earlier.life] - earlier.time)
                else:
                    # No kill lies between: nothing excuses this one.
                    result.beyond_flight += 1
    result.asked_again = per_life.total()
    result.most_per_kill = max(per_life.values(), default=0)
    result.beyond_flight += sum(max(0, count - in_flight) for count in per_life.values())
    return result


def kept_before(lives: Sequence[Life]) -> dict[int, frozenset[str]]:
    """Documents that were finished on disk when each process started, by its number."""
    before: dict[int, frozenset[str]] = {}
    kept: frozenset[str] = frozenset()
    for life in lives:
        before[life.number] = kept
        kept = life.kept
    return before


class Progress:
    """How far one process has come, as far as the server can tell.

    Args:
        corpus: ids of all documents.
        run: the run that it belongs to, with the events of earlier processes.
        number: of the process.

    Attributes:
        contact: time of its first request to the server; None before.
        answers: times of the answers that it was sent.
    """

    def __init__(self, corpus: Collection[str], run: Run, number: int):
        self._number = number
        self._unanswered = set(corpus)
        self._waiting: set[str] = set()
        self.contact: float | None = None
        self.answers: list[float] = []
        for event in run.events:
            self._note_answer(event)

    def see(self, event: Event) -> None:
        """Takes note of an event."""
        self._note_answer(event)
        if event.life != self._number or event.kind == LIFE:
            return
        if self.contact is None:
            self.contact = event.time
        if event.kind == ASKED and not event.probe:
            self._waiting.add(event.document)
        elif event.kind == ANSWERED and not event.probe:
            self._waiting.discard(event.document)
            self.answers.append(event.time)

    @property
    def finishing(self) -> bool:
        """Whether it has just been sent the last answer of the corpus."""
        return bool(self.answers) and not self._waiting and not self._unanswered

    @property
    def phase(self) -> str:
        """What it is doing; one that has nothing left to ask is said to read what is on disk."""
        if self.contact is None:
            return STARTING
        if not self.answers and not self._waiting:
            return RESUMING
        return FINISHING if self.finishing else ASKING

    def _note_answer(self, event: Event) -> None:
        if event.kind == ANSWERED and not event.probe:
            self._unanswered.discard(event.document)
