"""The benchmark of kills: its accounts are worked out by hand, and it finds fault with a tool that deserves it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TOOL = REPOSITORY / "tools" / "bench_exactly_once.py"

NAIVE = """
import json, sys, urllib.request
url, corpus, output = sys.argv[1:]
for line in open(corpus):
    record = json.loads(line)
    body = json.dumps({"prompt": record["text"], "max_tokens": 9}).encode()
    with urllib.request.urlopen(f"{url}/v1/completions", data=body) as answer:
        answer.read()
    with open(output, "a") as stream:
        stream.write(json.dumps(record) + "\\n")
"""
"""A tool that begins anew after a kill, and appends."""


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")


def run_of(*lines: str) -> Any:
    """A run from lines ``life kind document``; times are line numbers. ``end`` ends a life, with what was kept."""
    from exactly_once.accounts import Event, Life, Run

    run = Run()
    for time, line in enumerate(lines):
        life, kind, *rest = line.split()
        if kind == "end":
            run.lives.append(Life(int(life), time, frozenset(rest)))
        else:
            run.events.append(Event(time, kind.removeprefix("probe-"), int(life), rest[0], kind.startswith("probe-")))
    return run


def test_what_was_kept_is_not_asked_again() -> None:
    from exactly_once.accounts import account

    run = run_of(
        "1 asked a", "1 answered a", "1 asked b", "1 dropped b", "1 end a", "2 asked b", "2 answered b", "2 end"
    )
    assert vars(account({"a", "b"}, ["a", "b"], run, 1)) == {
        "lost": 0, "doubled": 0, "asked_again": 0, "beyond_flight": 0, "kept_asked_again": 0, "most_per_kill": 0,
        "oldest": None, "requests": 3, "probes": 0,
    }  # fmt: skip


def test_answers_that_are_asked_for_again_are_counted_once_and_for_their_kill() -> None:
    from exactly_once.accounts import account

    run = run_of(
        "1 asked a", "1 asked b", "1 answered a", "1 answered b", "1 asked c", "1 end b",
        # Asked again twice, but paid for twice only: the first of these requests was not answered.
        "2 asked a", "2 end b",
        "3 asked a", "3 answered a", "3 asked b", "3 answered b", "3 asked c", "3 answered c", "3 end a b c",
    )  # fmt: skip
    counts = account({"a", "b", "c"}, ["a", "b", "c"], run, 1)
    assert (counts.asked_again, counts.most_per_kill, counts.beyond_flight) == (2, 2, 1)
    assert counts.kept_asked_again == 1, "b was on disk"
    assert counts.oldest == 5 - 2
    assert account({"a", "b", "c"}, ["a", "b", "c"], run, 2).beyond_flight == 0


def test_asking_twice_without_a_kill_is_never_excused() -> None:
    from exactly_once.accounts import account

    run = run_of("1 asked a", "1 answered a", "1 asked a", "1 answered a", "1 end")
    counts = account({"a"}, ["a"], run, 100)
    assert (counts.asked_again, counts.beyond_flight, counts.oldest) == (1, 1, None)


def test_lost_and_doubled_documents_and_probes() -> None:
    from exactly_once.accounts import account

    run = run_of("1 probe-asked a", "1 probe-answered a", "1 asked a", "1 answered a", "1 end")
    counts = account({"a", "b", "c"}, ["a", "a", "a", "c", "c"], run, 1)
    assert (counts.lost, counts.doubled, counts.asked_again) == (1, 3, 0)
    assert (counts.requests, counts.probes) == (1, 1)


def test_accounts_add_up_and_keep_the_worst() -> None:
    from exactly_once.accounts import Account

    both = Account(lost=1, asked_again=3, most_per_kill=3, oldest=0.5) + Account(lost=2, asked_again=9, most_per_kill=2)
    assert both == Account(lost=3, asked_again=12, most_per_kill=3, oldest=0.5)
    assert (both + Account(oldest=0.25)).oldest == 0.5


def test_phases() -> None:
    from exactly_once.accounts import ASKING, FINISHING, RESUMING, STARTING, Event, Progress, Run

    earlier = Run([Event(0, "asked", 1, "a"), Event(1, "answered", 1, "a")])
    progress = Progress({"a", "b"}, earlier, 2)
    seen = []
    for kind, document, probe in (
        ("dropped", "c", False),
        ("contact", "", False),
        ("asked", "b", True),
        ("answered", "b", True),
        ("asked", "b", False),
        ("answered", "b", False),
    ):
        progress.see(Event(2, kind, 1 if document == "c" else 2, document, probe))
        seen.append(progress.phase)
    assert seen == [STARTING, RESUMING, RESUMING, RESUMING, ASKING, FINISHING]


def test_a_journal_is_read_independently(tmp_path: Path) -> None:
    from exactly_once.runners import documents_in_journal

    from megatron_ipt.synthesis.from_text.prompted.synthesizer import Outcome
    from megatron_ipt.synthesis.journal import Journal
    from megatron_ipt.synthesis.pairs import Chain, Example

    journal = Journal(tmp_path / "shard-00000.journal", 7)
    for index, numbers in ((1, (2, 3)), (0, (0, 1))):
        examples = [Example(f"x{number}", f"doc-{number:06d}: text") for number in numbers]
        journal.append(index, Outcome([Chain("x", "train", examples)]).dump())
    journal.close()
    expected = ["doc-000002", "doc-000003", "doc-000000", "doc-000001"]
    assert list(documents_in_journal(journal.path)) == expected
    journal.path.write_bytes(journal.path.read_bytes()[:-3])
    assert list(documents_in_journal(journal.path)) == expected[:2]


def test_a_tool_that_begins_anew_is_found_out(tmp_path: Path) -> None:
    import random

    from bench_exactly_once import failed, table, write_corpus, write_tokenizer
    from exactly_once.accounts import ASKING
    from exactly_once.kills import DummyServer, Killer
    from exactly_once.runners import Runner

    class Naive(Runner):
        name = "naive"
        in_flight = 1
        folder = tmp_path / "naive"

        def command(self) -> list[str]:
            self.folder.mkdir(exist_ok=True)
            corpus, output = tmp_path / "corpus" / "documents.jsonl", self.folder / "output.jsonl"
            return [sys.executable, "-c", NAIVE, server.url, str(corpus), str(output)]

        def files(self) -> list[Path]:
            return [self.folder / "output.jsonl"]

    corpus = write_corpus(tmp_path / "corpus", 40, random.Random(1))
    write_tokenizer(tmp_path / "tokenizer")
    with DummyServer(tmp_path / "tokenizer", 0.005) as server:
        killer = Killer(Naive(), server, corpus, 5, 0.2, tmp_path / "log")
        result = killer.undisturbed()
        killer.kill(8, result, lambda _: None)
    assert result.all_kills == 8 and result.kills[ASKING]
    counts = result.counts
    assert counts.lost == 0 and counts.doubled > 0 and counts.asked_again > 0
    assert result.equal < result.runs and failed(result)
    assert "| documents doubled | " in table([result])


def test_a_tool_that_cannot_resume_is_reported(tmp_path: Path) -> None:
    import random

    from bench_exactly_once import failed, write_corpus, write_tokenizer
    from exactly_once.kills import DummyServer, Killer
    from exactly_once.runners import Runner

    refusing = f"import os, sys\nif os.path.exists({str(tmp_path / 'naive')!r}): sys.exit('cannot resume')\n"

    class Refusing(Runner):
        name = "refusing"
        in_flight = 1
        folder = tmp_path / "naive"

        def command(self) -> list[str]:
            code = f"{refusing}os.mkdir({str(self.folder)!r})\n{NAIVE}"
            corpus, output = tmp_path / "corpus" / "documents.jsonl", self.folder / "output.jsonl"
            return [sys.executable, "-c", code, server.url, str(corpus), str(output)]

        def files(self) -> list[Path]:
            return [self.folder / "output.jsonl"]

    corpus = write_corpus(tmp_path / "corpus", 20, random.Random(1))
    write_tokenizer(tmp_path / "tokenizer")
    with DummyServer(tmp_path / "tokenizer", 0.005) as server:
        killer = Killer(Refusing(), server, corpus, 5, 0.2, tmp_path / "log")
        result = killer.undisturbed()
        killer.kill(6, result, lambda _: None)
    assert set(result.stuck) == {"cannot resume"} and failed(result)


def test_tools_that_are_not_installed_are_skipped_with_the_reason(tmp_path: Path) -> None:
    missing = str(tmp_path / "python")
    options = ["--only", "datatrove", "vllm", "--datatrove-python", missing]
    done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"datatrove skipped: {missing}: No such file" in done.stdout
    assert "vllm skipped: vLLM's batch runner needs --model" in done.stdout


@pytest.mark.slow
def test_synthesis_survives_a_handful_of_kills(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    sizes = ["--kills", "4", "--documents", "40", "--unit", "20", "--window", "4"]
    options = ["--only", "megatron-ipt", *sizes, "--results", str(results)]
    done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(results.read_text())
    assert sum(result["kills"].values()) == 4
    assert result["equal"] == result["runs"] >= 1
    counts = result["counts"]
    assert (counts["lost"], counts["doubled"], counts["kept_asked_again"], counts["beyond_flight"]) == (0, 0, 0, 0)
    assert counts["requests"] >= 40 * result["runs"]
