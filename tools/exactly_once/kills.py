"""Kills a tool at random, again and again, and starts it anew until its output is complete.

When it is complete before all kills are spent, its folder is removed and it starts from nothing. All random choices
come from one seed. Kills come in equal parts a random time after the start, shortly after the first request to the
server, when earlier work is read, shortly after a random number of answers, and shortly after the last answer, when
files are finished: by time alone, few would hit the short ones of these phases.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exactly_once.accounts import LIFE, PHASES, Account, Event, Life, Progress, Run, account
from exactly_once.runners import Runner

MOMENTS = ("start", "contact", "answer", "last answer")

_POLL_SECONDS = 0.002
_LONGEST_LIFE = 300.0
_FAILURES = 3
_CONFIRMED_SECONDS = 30.0


class DummyServer:
    """The dummy server in a process of its own, and its log.

    Attributes:
        url: without ``/v1``.
        life: number of the process under test.
    """

    def __init__(self, tokenizer: Path, latency: float):
        script = Path(__file__).with_name("server.py")
        command = [sys.executable, str(script), "--tokenizer", str(tokenizer / "tokenizer.json")]
        self._command = [*command, "--latency", str(latency)]
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self.life = 1

    def __enter__(self) -> DummyServer:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def end_life(self) -> None:
        """Marks the end of a process under test; what the server saw of it has been read when this returns."""
        with urllib.request.urlopen(f"{self.url}/life", data=b"", timeout=_CONFIRMED_SECONDS):
            pass
        ended = (LIFE, self.life)
        with self._changed:
            seen = self._changed.wait_for(
                lambda: any((event.kind, event.life) == ended for event in self._events), _CONFIRMED_SECONDS
            )
        if not seen:
            raise RuntimeError("the dummy server stopped logging")
        self.life += 1

    def take(self) -> list[Event]:
        """Events since the last call."""
        with self._changed:
            events, self._events = self._events, []
            return events

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._events.append(Event(**json.loads(line)))
                self._changed.notify_all()


@dataclass(frozen=True)
class Trigger:
    """When a process is killed: ``delay`` seconds after one of ``MOMENTS``, where ``answer`` is its ``answers``-th.

    What follows an answer takes milliseconds, so delays after answers are spread evenly over orders of magnitude.
    """

    after: str
    delay: float
    answers: int = 0

    @classmethod
    def draw(cls, choose: random.Random, longest: float, documents: int) -> Trigger:
        """A random one.

        Args:
            choose: the source of randomness.
            longest: maximum seconds after the start.
            documents: in the corpus.
        """
        after = choose.choice(MOMENTS)
        if after == "start":
            return cls(after, choose.uniform(0, longest))
        return cls(after, 10 ** choose.uniform(-3, -0.5), choose.randint(1, max(1, documents // 4)))

    def moment(self, start: float, progress: Progress) -> float | None:
        """When the delay begins; None while that is not known."""
        if self.after == "start":
            return start
        if self.after == "contact":
            return progress.contact
        if self.after == "answer":
            return progress.answers[self.answers - 1] if len(progress.answers) >= self.answers else None
        return progress.answers[-1] if progress.finishing else None


@dataclass
class Result:
    """What came of all the kills of one tool.

    Attributes:
        name, in_flight, tells_kept: of the tool.
        kills: by phase.
        half_written: kills that left a half-written file of output.
        runs: complete outputs, the undisturbed one excluded.
        compared: whether outputs can be compared, because the server's answers are always the same.
        equal: runs whose output has the bytes of the undisturbed run.
        equal_but_order: runs whose output has the same lines in another order or in other files.
        stuck: messages of runs that could not be resumed; their folder was removed.
        undisturbed: seconds of the run without kills.
        seconds: of all others together.
        counts: of the complete runs.
    """

    name: str
    in_flight: int
    tells_kept: bool = False
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    half_written: int = 0
    runs: int = 0
    compared: bool = True
    equal: int = 0
    equal_but_order: int = 0
    stuck: list[str] = field(default_factory=list)
    undisturbed: float = 0.0
    seconds: float = 0.0
    counts: Account = field(default_factory=Account)

    @property
    def all_kills(self) -> int:
        return sum(self.kills.values())


class Killer:
    """Runs one tool against one server.

    Args:
        runner: the tool.
        server: the server that it asks.
        corpus: ids of the documents.
        seed: of all random choices.
        longest: maximum seconds after the start for kills by time.
        log: file for what the tool prints.
    """

    def __init__(
        self, runner: Runner, server: DummyServer, corpus: frozenset[str], seed: int, longest: float, log: Path
    ):
        self._runner = runner
        self._server = server
        self._corpus = corpus
        self._choose = random.Random(seed)
        self._longest = longest
        self._log = log

    def undisturbed(self) -> Result:
        """Runs the tool once without kills; its output is what all others are compared with.

        Raises:
            RuntimeError: it failed, or lost something.
        """
        self._runner.reset()
        run = Run()
        start = time.monotonic()
        if self._live(run, None)[0] != 0:
            raise RuntimeError(f"{self._runner.name} failed without being killed: {self._last_words()}")
        runner = self._runner
        result = Result(runner.name, runner.in_flight, runner.tells_kept, undisturbed=time.monotonic() - start)
        counts = account(self._corpus, self._runner.output(), run, self._runner.in_flight)
        if counts.lost or counts.doubled or counts.asked_again:
            raise RuntimeError(f"{self._runner.name} is not exactly-once even without kills: {counts}")
        self._expected = self._runner.content()
        self._runner.reset()
        return result

    def kill(self, kills: int, result: Result, report: Callable[[Result], None]) -> None:
        """Kills the tool ``kills`` times, and then lets it finish.

        Args:
            kills: how often.
            result: of the undisturbed run; completed here.
            report: called after every kill.
        """
        start = time.monotonic()
        run, failures = Run(), 0
        while True:
            spent = result.all_kills >= kills
            trigger = None if spent else Trigger.draw(self._choose, self._longest, len(self._corpus))
            status, phase = self._live(run, trigger)
            failures = failures + 1 if status > 0 else 0
            if status == -signal.SIGKILL:
                result.kills[phase] += 1
                result.half_written += run.lives[-1].writing
                report(result)
            elif status == 0:
                self._complete(run, result)
            elif failures == _FAILURES:
                result.stuck.append(self._last_words())
            if status == 0 or failures == _FAILURES:
                self._runner.reset()
                run, failures = Run(), 0
                if spent:
                    break
        result.seconds = time.monotonic() - start

    def _complete(self, run: Run, result: Result) -> None:
        result.runs += 1
        result.counts += account(self._corpus, self._runner.output(), run, self._runner.in_flight)
        content = self._runner.content()
        if content == self._expected:
            result.equal += 1
        elif sorted_lines(content) == sorted_lines(self._expected):
            result.equal_but_order += 1

    def _live(self, run: Run, trigger: Trigger | None) -> tuple[int, str]:
        """Starts one process and kills it when ``trigger`` says; returns its exit status and last phase."""
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                self._runner.command(),
                env=self._runner.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: children die with it, as they would with their machine.
                start_new_session=True,
            )
        number = self._server.life
        progress = Progress(self._corpus, run, number)
        try:
            self._wait(process, run, progress, trigger)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        ended = time.monotonic()
        run.lives.append(Life(number, ended, self._runner.kept(), self._runner.writing()))
        self._server.end_life()
        self._take(run, progress)
        return status, progress.phase

    def _wait(self, process: subprocess.Popen[bytes], run: Run, progress: Progress, trigger: Trigger | None) -> None:
        """Returns when the process has ended or is to be killed."""
        start = time.monotonic()
        while process.poll() is None:
            self._take(run, progress)
            now = time.monotonic()
            since = trigger.moment(start, progress) if trigger is not None else None
            if trigger is not None and since is not None and now >= since + trigger.delay:
                return
            if now - start > _LONGEST_LIFE:
                raise RuntimeError(f"{self._runner.name} did not finish within {_LONGEST_LIFE:.0f} s; see {self._log}")
            time.sleep(_POLL_SECONDS)

    def _take(self, run: Run, progress: Progress) -> None:
        for event in self._server.take():
            run.events.append(event)
            progress.see(event)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"


def sorted_lines(content: dict[str, bytes]) -> list[bytes]:
    return sorted(line for data in content.values() for line in data.splitlines())
