"""Real SIGKILL at random moments: nothing lost, nothing doubled, nothing finished asked for again."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from tests.synthesis.conftest import texts_of, write_corpus

KILLS = 200
SHARDS = [texts_of(14), texts_of(1, 14), texts_of(13, 15), []]
_JOURNAL_HEADER, _RECORD_HEADER = 16, 16


def work(root: Path, tokenizer: Path) -> None:
    """One run of the stage, in a process of its own."""
    os.environ["ASKED_FILE"] = str(root / "asked")
    settings = {
        "engine": "tests.synthesis.instant:SlowEngine",
        "generation.model": tokenizer,
        "generation.context_length": 1024,
        "generation.max_new_tokens": 128,
        "chain_length": 2,
    }
    config = load(SynthesisConfig, None, [f"{name}={value}" for name, value in settings.items()])
    stage.run(config, StageContext("synthesis", root / "synthesis", 7, {DOCUMENTS: root / "corpus"}))


def payloads(path: Path) -> Iterator[Any]:
    """Payloads of a journal, read independently of the code under test; a torn tail is passed over."""
    data = path.read_bytes()
    position = _JOURNAL_HEADER
    while position + _RECORD_HEADER <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        payload = data[position + _RECORD_HEADER : position + _RECORD_HEADER + length]
        if len(payload) < length:
            break
        yield orjson.loads(payload)
        position += _RECORD_HEADER + length


def journalled(path: Path) -> list[str]:
    """First words of the texts in a journal."""
    chains = (chain for payload in payloads(path) for chain in payload["chains"])
    return [example["text"].split()[0] for chain in chains for example in chain["examples"]]


def finished(directory: Path) -> list[str]:
    words = []
    for path in sorted(directory.glob("shard-*.jsonl")):
        for line in path.read_bytes().splitlines():
            words += [example["text"].split()[0] for example in orjson.loads(line)["examples"]]
    return words


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("shard-*"))}


@pytest.mark.slow
def test_killed_two_hundred_times(tmp_path: Path, tokenizer_folder: Path) -> None:
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(
        ["tests.synthesis.test_kill", "megatron_ipt.synthesis.from_text.prompted.runner", "tokenizers"]
    )
    choose = random.Random(20240615)

    def run(root: Path, delay: float | None = None) -> int | None:
        process = forkserver.Process(target=work, args=(root, tokenizer_folder))
        process.start()
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.join()
        return process.exitcode

    reference = tmp_path / "reference"
    write_corpus(reference / "corpus", SHARDS)
    assert run(reference) == 0
    start = time.monotonic()
    assert run(reference) == 0
    nothing_to_do = time.monotonic() - start
    expected = content(reference / "synthesis")
    texts = [text.split()[0] for shard in SHARDS for text in shard]
    assert finished(reference / "synthesis") == texts

    root = tmp_path / "killed"
    kills = completions = 0
    done: set[str] = set()
    write_corpus(root / "corpus", SHARDS)
    while kills < KILLS:
        (root / "asked").unlink(missing_ok=True)
        exitcode = run(root, choose.uniform(0, 2 * nothing_to_do + 0.08))
        kills += exitcode == -9
        assert exitcode in (0, -9)
        directory = root / "synthesis"
        asked = (root / "asked").read_text().split() if (root / "asked").exists() else []
        assert len(asked) == len(set(asked)), "a text was asked for twice"
        assert not done & set(asked), "a finished text was asked for again"
        if exitcode == 0:
            completions += 1
            assert content(directory) == expected
            assert sorted(path.name for path in directory.glob(".*")) == []
            shutil.rmtree(directory)
            done = set()
        elif directory.exists():
            done = {word for path in directory.glob("*.journal") for word in journalled(path)} | set(
                finished(directory)
            )
    assert run(root) == 0
    assert content(root / "synthesis") == expected
    assert completions >= 5, "the kills came too early to test anything"
