"""Texts that the engine refuses: how many end a run, and asking about them again without redoing the rest."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from megatron_ipt.errors import NoPairsError, StageError
from megatron_ipt.inference.engine import Completion, EngineError, Request, RequestRefused
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.runner import too_many_refused
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.instant import InstantEngine, text_of

Configure = Callable[..., SynthesisConfig]
ENGINE = "tests.synthesis.test_refused:RefusingEngine"


class RefusingEngine(InstantEngine):
    """Refuses the texts that begin with one of ``refused``, and dies when it has answered ``left`` others."""

    refused: ClassVar[set[str]] = set(os.environ.get("REFUSED", "").split())
    left: ClassVar[int] = 10_000
    asked: ClassVar[list[str]] = []

    async def generate(self, request: Request) -> Completion:
        name = text_of(request).split()[0]
        await asyncio.sleep(0)
        RefusingEngine.asked.append(name)
        if name in self.refused:
            raise RequestRefused("it says \x1b[31mno")
        if RefusingEngine.left == 0:
            raise EngineError("the engine has burnt down")
        RefusingEngine.left -= 1
        return await super().generate(request)


@pytest.fixture(autouse=True)
def fresh_engine() -> None:
    RefusingEngine.refused, RefusingEngine.left, RefusingEngine.asked = set(), 10_000, []


def content(directory: Path) -> dict[str, bytes]:
    paths = [*directory.glob("shard-*"), *directory.glob("rejects/*")]
    return {path.name: path.read_bytes() for path in sorted(paths)}


@pytest.mark.parametrize(
    ("refused", "texts", "limit", "too_many"),
    [(1, 1, 0.01, False), (1, 50, 0.01, False), (2, 50, 0.01, True), (2, 200, 0.01, False), (3, 200, 0.01, True),
     (1, 1000, 0.0, True), (0, 5, 0.0, False), (9, 9, 1.0, False)],
)  # fmt: skip
def test_one_refusal_never_ends_a_run(refused: int, texts: int, limit: float, too_many: bool) -> None:
    assert too_many_refused({"refused_texts": refused, "texts": texts}, limit) == too_many


def test_a_small_run_survives_a_refusal(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(6)])
    RefusingEngine.refused = {"Text3"}
    counts = stage.run(configure(engine=ENGINE), context)
    assert (counts["refused_texts"], counts["texts_with_pairs"]) == (1, 5)


def test_a_failed_run_asks_again_only_about_what_was_refused(configure: Configure, context: StageContext) -> None:
    shards = [texts_of(9), texts_of(9, 9), texts_of(9, 18)]
    write_corpus(context.inputs[DOCUMENTS], shards)
    whole = StageContext("synthesis", context.directory.with_name("whole"), 7, context.inputs)
    stage.run(configure(), whole)
    config = configure(engine=ENGINE)
    RefusingEngine.refused = {"Text3", "Text12", "Text13"}
    with pytest.raises(StageError, match=r"refused 3 of 27 texts.*only the refused texts are asked about again"):
        stage.run(config, context)
    kept = sorted(path.name for path in context.directory.glob("*.journal"))
    assert kept == ["shard-00000.journal", "shard-00001.journal"]
    # As long as the cause is there, nothing but these chains is asked about.
    RefusingEngine.asked = []
    with pytest.raises(StageError, match="refused 3 of 27"):
        stage.run(config, context)
    chains = ["Text11", "Text12", "Text13", "Text14", "Text2", "Text3"]
    assert sorted(RefusingEngine.asked) == chains
    RefusingEngine.refused, RefusingEngine.asked = set(), []
    counts = stage.run(config, context)
    assert "refused_texts" not in counts and counts["texts_with_pairs"] == 27
    assert sorted(RefusingEngine.asked) == chains
    assert content(context.directory) == content(whole.directory)


def test_on_request_a_finished_stage_asks_again(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(5), texts_of(5, 5), texts_of(5, 10)])
    whole = StageContext("synthesis", context.directory.with_name("whole"), 7, context.inputs)
    stage.run(configure(chain_length=1), whole)
    config = configure(engine=ENGINE, chain_length=1, **{"generation.max_refused_share": 0.5})
    RefusingEngine.refused = {"Text3", "Text12"}
    assert stage.run(config, context)["refused_texts"] == 2
    RefusingEngine.refused, RefusingEngine.asked = set(), []
    assert stage.run(config, context)["refused_texts"] == 2 and RefusingEngine.asked == []
    assert stage.reopen_refused(config, context, (1, 3)) == {"refused_texts": 0, "shards": 0}
    assert stage.reopen_refused(config, context, (0, 3)) == {"refused_texts": 1, "shards": 1}
    assert stage.unfinished(config, context) == ["shard-00000.jsonl"]
    assert stage.reopen_refused(config, context) == {"refused_texts": 1, "shards": 1}
    stage.run(config, context)
    assert sorted(RefusingEngine.asked) == ["Text12", "Text3"]
    assert content(context.directory) == content(whole.directory)
    assert stage.reopen_refused(config, context) == {"refused_texts": 0, "shards": 0}


def test_when_every_text_was_refused_a_rerun_asks_again(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
    config = configure(engine=ENGINE, **{"generation.max_refused_share": 1})
    RefusingEngine.refused = {"Text0"}
    with pytest.raises(NoPairsError, match=r"refused every text.*Fix the cause, then rerun\.$") as raised:
        stage.run(config, context)
    assert "\x1b" not in str(raised.value)
    RefusingEngine.refused = set()
    assert stage.run(config, context)["texts_with_pairs"] == 1


def test_a_run_that_was_stopped_asks_again(configure: Configure, context: StageContext) -> None:
    """The run ends in the middle of a shard, once enough texts were seen."""
    write_corpus(context.inputs[DOCUMENTS], [texts_of(300)])
    config = configure(engine=ENGINE, chain_length=1)
    RefusingEngine.refused = {f"Text{number}" for number in range(150, 160)}
    with pytest.raises(StageError, match=r"refused \d+ of \d+ texts"):
        stage.run(config, context)
    asked = len(RefusingEngine.asked)
    assert asked < 200
    RefusingEngine.refused = set()
    counts = stage.run(config, context)
    assert counts["texts_with_pairs"] == 300 and "refused_texts" not in counts
    # Those refused, and those in flight when the run ended.
    assert len(RefusingEngine.asked) <= 300 + 10 + 8


def test_without_its_journal_a_shard_cannot_be_asked_again(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(3)])
    config = configure(engine=ENGINE)
    RefusingEngine.refused = {"Text1"}
    stage.run(config, context)
    (context.directory / "shard-00000.journal").unlink()
    with pytest.raises(StageError, match=r"shard-00000\.journal: is missing.*--overwrite"):
        stage.reopen_refused(config, context)
    assert stage.unfinished(config, context) == []


def test_other_settings_do_not_reopen(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(3)])
    RefusingEngine.refused = {"Text1"}
    stage.run(configure(engine=ENGINE), context)
    with pytest.raises(StageError, match="other documents or settings"):
        stage.reopen_refused(configure(engine=ENGINE, chain_length=3), context)
    assert stage.unfinished(configure(engine=ENGINE), context) == []


def test_the_option_of_the_command(tmp_path: Path, tokenizer_folder: Path) -> None:
    """Also where the stage is complete; the engine of the other process refuses what the environment names."""
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(texts_of(6)))
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'out'}\ncompression: none\n"
        f"corpus:\n  inputs: [{tmp_path / 'texts.jsonl'}]\n  minimum_characters: 1\n  synthesis_share: 1.0\n"
        f"synthesis:\n  engine: {ENGINE}\n  generation:\n    model: {tokenizer_folder}\n"
    )

    def call(refused: str, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "megatron_ipt", *arguments, "--json"]
        environment = os.environ | {"REFUSED": refused}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        record: dict[str, Any] = json.loads(done.stdout)
        return record | {"said": done.stderr}

    call("", "corpus", str(recipe))
    row = call("Text3", "synthesize", str(recipe))
    assert (row["status"], row["counts"]["refused_texts"]) == ("complete", 1)
    assert "refused 1 of 6 texts, which are kept without pairs" in row["said"]
    row = call("", "synthesize", str(recipe), "--retry-refused")
    assert row["retry_refused"] == {"refused_texts": 1, "shards": 1}
    assert (row["status"], row["counts"]["texts_with_pairs"]) == ("complete", 6)
    assert "refused_texts" not in row["counts"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 20), length=st.integers(1, 3))
def test_refused_and_interrupted_anywhere_the_result_is_the_same(
    configure: Configure, tmp_path_factory: pytest.TempPathFactory, seed: int, length: int
) -> None:
    choose = random.Random(seed)
    root = tmp_path_factory.mktemp("any")
    shards = [texts_of(7), texts_of(6, 7), [], texts_of(8, 13)]
    write_corpus(root / "corpus", shards)
    contexts = [StageContext("synthesis", root / name, 7, {DOCUMENTS: root / "corpus"}) for name in ("whole", "parts")]
    stage.run(configure(chain_length=length), contexts[0])
    config: Any = configure(engine=ENGINE, chain_length=length, **{"generation.max_refused_share": 0.2})
    names = [text.split()[0] for shard in shards for text in shard]
    for attempt in range(6):
        last = attempt == 5
        RefusingEngine.refused = set() if last else set(choose.sample(names, choose.randint(0, 6)))
        RefusingEngine.left = 10_000 if last else choose.randint(0, 20)
        try:
            if attempt % 2:
                stage.reopen_refused(config, contexts[1])
            stage.run(config, contexts[1])
        except (StageError, EngineError):
            continue
    assert content(contexts[1].directory) == content(contexts[0].directory)
    assert list(contexts[1].directory.glob("*.journal")) == []
