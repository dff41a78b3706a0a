"""Real SIGKILL at random moments while a taxonomy grows: the same bytes, and no call repeated that was answered."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import orjson
import pytest

from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.from_taxonomy import stage
from tests.synthesis.from_taxonomy.conftest import settings_of
from tests.synthesis.from_taxonomy.teacher import SEED, TAXONOMY
from tests.synthesis.from_taxonomy.test_taxonomy_stage import content
from tests.synthesis.test_kill import payloads

KILLS = 100


def work(root: Path, tokenizer: Path) -> None:
    """One run of the stage, in a process of its own."""
    os.environ["ASKED_FILE"] = str(root / "asked")
    engine = "tests.synthesis.from_taxonomy.teacher:SlowTeacher"
    config = settings_of(root / "crafts.yaml", tokenizer, engine=engine)
    stage.run(config, StageContext("taxonomy", root / "taxonomy", SEED))


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path: Path, chat_tokenizer: Path) -> None:
    from megatron_ipt.seeding import derive

    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(
        [
            "tests.synthesis.from_taxonomy.test_taxonomy_kill",
            "megatron_ipt.synthesis.from_taxonomy.runner",
            "tokenizers",
        ]
    )
    choose = random.Random(20240213)

    def run(root: Path, delay: float | None = None) -> int | None:
        (root / "crafts.yaml").write_text(TAXONOMY)
        process = forkserver.Process(target=work, args=(root, chat_tokenizer))
        process.start()
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.join()
        return process.exitcode

    reference = tmp_path / "reference"
    reference.mkdir()
    start = time.monotonic()
    assert run(reference) == 0
    whole_run = time.monotonic() - start
    expected = content(reference / "taxonomy")
    calls = [orjson.loads(line) for line in (reference / "taxonomy" / stage.TREE).read_bytes().splitlines()]
    seeds = {
        derive(SEED, "taxonomy", call["id"]) % (1 << 31): call["id"]
        for call in calls
        if call["kind"] not in ("discipline", "subject")
    }
    assert len(seeds) == 84

    root = tmp_path / "killed"
    root.mkdir()
    kills = completions = repeated = 0
    done: set[str] = set()
    while kills < KILLS:
        (root / "asked").unlink(missing_ok=True)
        exitcode = run(root, choose.uniform(0, 1.1 * whole_run))
        kills += exitcode == -9
        assert exitcode in (0, -9)
        directory = root / "taxonomy"
        asked = [seeds[int(line)] for line in (root / "asked").read_text().split()] if (root / "asked").exists() else []
        assert len(asked) == len(set(asked)), "a call was made twice"
        repeated += len(done & set(asked))
        assert not done & set(asked), "an answered call was made again"
        if exitcode == 0:
            completions += 1
            assert content(directory) == expected
            # Temporary files of the whole stage are removed by what runs stages, which is not at work here.
            assert sorted(path.name for path in directory.glob(".*") if not path.name.startswith(".tree.")) == []
            shutil.rmtree(directory)
            done = set()
        elif directory.exists():
            done = {call["id"] for path in directory.glob("*.journal") for call in payloads(path)}
            for path in directory.glob("*.done.json"):
                tree = directory / "tree" / path.name.replace(".done.json", ".jsonl")
                done |= {orjson.loads(line)["id"] for line in tree.read_bytes().splitlines()}
    assert run(root) == 0
    assert content(root / "taxonomy") == expected
    assert completions >= 5, "the kills came too early to test anything"
