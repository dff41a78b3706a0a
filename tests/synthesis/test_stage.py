from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from megatron_ipt.errors import NoPairsError, RecipeError, StageError
from megatron_ipt.inference.engine import Completion, EngineError, Request
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.shard import ShardTask
from megatron_ipt.synthesis.pairs import Chain
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.instant import InstantEngine, text_of

Configure = Callable[..., SynthesisConfig]


def run(config: SynthesisConfig, context: StageContext, shards: list[list[str]]) -> tuple[dict[str, Any], list[Chain]]:
    write_corpus(context.inputs[DOCUMENTS], shards)
    counts = stage.run(config, context)
    return counts, list(stage.chains_in(context.directory))


def layout(chains: list[Chain]) -> list[list[str]]:
    return [[example.id for example in chain.examples] for chain in chains]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
@pytest.mark.parametrize("shards", [[], [[]], [texts_of(1)], [texts_of(7), [], texts_of(4, 7)]])
def test_every_text_in_one_chain_in_order(
    configure: Configure, context: StageContext, length: int, shards: list[list[str]]
) -> None:
    counts, chains = run(configure(chain_length=length), context, shards)
    texts = [text for shard in shards for text in shard]
    assert [example.text for chain in chains for example in chain.examples] == texts
    expected = [min(length, len(shard) - start) for shard in shards for start in range(0, len(shard), length)]
    assert [len(chain.examples) for chain in chains] == expected
    assert (counts["texts"], counts["pairs"], counts["chains"]) == (len(texts), 2 * len(texts), len(expected))
    assert (
        sorted(path.name for path in context.directory.iterdir() if "journal" in path.name or "lock" in path.name) == []
    )


@pytest.mark.parametrize("engine", ["mined", "tests.synthesis.instant:InstantEngine"])
def test_chains_have_the_domain_of_their_documents(configure: Configure, context: StageContext, engine: str) -> None:
    folder = write_corpus(context.inputs[DOCUMENTS], [texts_of(7)])
    shard = folder / "synthesis/shard-00000.jsonl"
    records = [json.loads(line) for line in shard.read_text().splitlines()]
    domains = {record["id"]: ("law", "code", "")[number % 3] for number, record in enumerate(records)}
    shard.write_text("".join(json.dumps(record | {"domain": domains[record["id"]]}) + "\n" for record in records))
    stage.run(configure(engine=engine, chain_length=2), context)
    chains = list(stage.chains_in(context.directory))
    assert {example.id: chain.domain for chain in chains for example in chain.examples} == domains
    assert sorted(len(chain.examples) for chain in chains) == [1, 2, 2, 2]


class SilentEngine(InstantEngine):
    def answer(self, request: Request) -> str:
        return "Question: what is it? Answer: nothing."


class WrongEngine(InstantEngine):
    async def generate(self, request: Request) -> Any:
        return "an answer"


def test_texts_without_any_pair_are_an_error_with_reasons_and_answers(
    configure: Configure, context: StageContext
) -> None:
    config = configure(engine="tests.synthesis.test_stage:SilentEngine")
    message = (
        r"none of 3 texts got a pair; dropped: without </END> \(3\); see .*rejects\n.*\n"
        r"  'Question: what is it\? Answer: nothing\.'\n.*synthesis\.prompt=synthesizer.*--overwrite"
    )
    with pytest.raises(NoPairsError, match=message):
        run(config, context, [texts_of(3)])
    assert stage.unfinished(config, context) == []
    # A rerun asks for no answers, and takes those it shows from the rejects.
    with pytest.raises(NoPairsError, match=message):
        stage.run(config, context)


class EmptyEngine(InstantEngine):
    def answer(self, request: Request) -> str:
        return "" if "PAIRS" not in text_of(request) else super().answer(request)


def test_a_run_without_pairs_is_stopped_early(configure: Configure, context: StageContext) -> None:
    config = configure(engine="tests.synthesis.test_stage:EmptyEngine", chain_length=1, give_up_after=20)
    with pytest.raises(
        NoPairsError, match=r"none of 20 texts got a pair; dropped: empty answer .*\(20\)\n.*\n  \(empty\)"
    ):
        run(config, context, [texts_of(15), texts_of(50, 15)])
    assert stage.unfinished(config, context) == ["shard-00001.jsonl"]
    # The finished chains are not asked about again, and the next answers are judged anew.
    with pytest.raises(NoPairsError, match="none of 20 texts"):
        stage.run(config, context)


@pytest.mark.parametrize("place", [19, 20, None])
def test_the_first_pair_decides(configure: Configure, context: StageContext, place: int | None) -> None:
    """``place`` counts from 0: a pair in the last of the first 20 answers is in time."""
    texts = texts_of(40)
    if place is not None:
        texts[place] += " PAIRS"
    engine = "tests.synthesis.test_stage:EmptyEngine"
    config = configure(engine=engine, chain_length=1, give_up_after=20, **{"generation.window": 1})
    if place == 19:
        counts, _ = run(config, context, [texts])
        assert (counts["texts"], counts["pairs"]) == (40, 2)
    else:
        with pytest.raises(NoPairsError, match="none of 20 texts"):
            run(config, context, [texts])


def test_pairs_of_an_earlier_run_prove_the_model(configure: Configure, context: StageContext) -> None:
    texts = texts_of(60)
    texts[0] += " PAIRS"
    settings = {"chain_length": 1, "give_up_after": 20, "generation.window": 1}
    FailingEmptyEngine.fails = True
    config = configure(engine="tests.synthesis.test_stage:FailingEmptyEngine", **settings)
    with pytest.raises(EngineError):
        run(config, context, [texts])
    FailingEmptyEngine.fails = False
    assert stage.run(config, context)["texts_with_pairs"] == 1


class FailingEmptyEngine(EmptyEngine):
    fails = True

    def answer(self, request: Request) -> str:
        if self.fails and text_of(request).startswith("Text5 "):
            raise EngineError("the engine has burnt down")
        return super().answer(request)


def test_without_a_limit_the_run_is_judged_at_its_end(configure: Configure, context: StageContext) -> None:
    config = configure(engine="tests.synthesis.test_stage:EmptyEngine", give_up_after="null")
    with pytest.raises(NoPairsError, match="none of 70 texts"):
        run(config, context, [texts_of(70)])


def test_mined_texts_without_pairs_are_a_warning(
    configure: Configure, context: StageContext, caplog: pytest.LogCaptureFixture
) -> None:
    counts, _ = run(configure(engine="mined"), context, [["Too short."]])
    assert counts["pairs"] == 0
    assert "none of 1 texts got a pair; the engine found none" in caplog.text


def test_engines_are_held_to_their_interface(configure: Configure, context: StageContext) -> None:
    with pytest.raises(EngineError, match="generate of WrongEngine returned 'an answer', which is not a Completion"):
        run(configure(engine="tests.synthesis.test_stage:WrongEngine"), context, [texts_of(1)])
    with pytest.raises(RecipeError, match="texts_of is not a subclass of megatron_ipt"):
        stage.check(configure(engine="tests.synthesis.conftest:texts_of"))


def test_a_text_without_pairs_cuts_the_chain(configure: Configure, context: StageContext) -> None:
    texts = texts_of(6)
    texts[1] += " NOPAIRS"
    texts[3] = "NOPAIRS " + texts[3]
    counts, chains = run(configure(chain_length=6), context, [texts])
    assert layout(chains) == [["d0"], ["d1"], ["d2"], ["d3"], ["d4", "d5"]]
    assert [chain.id for chain in chains] == ["d0", "d1", "d2", "d3", "d4"]
    assert counts["chains_cut_for_lack_of_pairs"] == 2
    assert counts["texts_with_pairs"] == 4


def test_a_text_that_does_not_fit_begins_a_chain(configure: Configure, context: StageContext) -> None:
    config = configure(chain_length=6, **{"generation.context_length": 360})
    counts, chains = run(config, context, [texts_of(6)])
    assert layout(chains) == [["d0", "d1"], ["d2", "d3"], ["d4", "d5"]]
    assert counts["chains_cut_for_length"] == 2


def test_long_texts_are_divided_by_tokens_and_nothing_is_lost(configure: Configure, context: StageContext) -> None:
    text = " ".join(texts_of(80))
    counts, chains = run(configure(chain_length=4, passage_characters=100_000), context, [[text]])
    examples = [example for chain in chains for example in chain.examples]
    assert "".join(example.text for example in examples) == text
    assert [example.id for example in examples] == ["d0", *(f"d0#{part}" for part in range(2, len(examples) + 1))]
    assert len(examples) > 2
    assert all(example.pairs for example in examples)
    assert counts["dropped"] == {}


def test_blank_passages_are_not_asked_about(configure: Configure, context: StageContext) -> None:
    counts, chains = run(configure(), context, [["  \n ", *texts_of(1)]])
    assert layout(chains) == [["d0"], ["d1"]]
    assert counts["dropped"] == {"text without words": 1} and counts["requests"] == 1


def test_marks_in_the_text_do_not_reach_the_model_but_stay_in_the_data(
    configure: Configure, context: StageContext
) -> None:
    text = "A <CON> b </s> c <QUE> d <ANS> e </END>"
    _, chains = run(configure(), context, [[text]])
    assert chains[0].examples[0].text == text
    assert chains[0].examples[0].pairs


def test_splits_are_not_mixed(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(6)])
    path = context.inputs[DOCUMENTS] / "synthesis" / "shard-00000.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(records):
        record["split"] = ("train", "valid", "test")[number % 3]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    stage.run(configure(), context)
    chains = list(stage.chains_in(context.directory))
    assert layout(chains) == [["d0", "d3"], ["d1", "d4"], ["d2", "d5"]]
    assert [chain.split for chain in chains] == ["train", "valid", "test"]


def test_mined_and_model_write_the_same_texts(configure: Configure, context: StageContext) -> None:
    shards = [texts_of(5), texts_of(2, 5)]
    _, by_model = run(configure(), context, shards)
    context.directory = context.directory.with_name("mined")
    counts, by_mining = run(configure(engine="mined", **{"mined.completion_share": 0}), context, shards)
    assert layout(by_model) == layout(by_mining)
    assert [[example.text for example in chain.examples] for chain in by_model] == [
        [example.text for example in chain.examples] for chain in by_mining
    ]
    assert counts["texts"] == 7


def test_shards_of_several_processes_make_the_whole(configure: Configure, context: StageContext) -> None:
    shards = [texts_of(3, 3 * number) for number in range(5)]
    _, expected = run(configure(), context, shards)
    context.directory = context.directory.with_name("parts")
    write_corpus(context.inputs[DOCUMENTS], shards)
    config = configure()
    names = [f"shard-{number:05d}.jsonl" for number in range(5)]
    assert stage.run(config, context, (1, 3))["unfinished_shards"] == 3
    assert stage.unfinished(config, context) == [names[0], names[2], names[3]]
    assert stage.run(config, context, (0, 3))["unfinished_shards"] == 1
    counts = stage.run(config, context, (2, 3))
    assert "unfinished_shards" not in counts and counts["texts"] == 15
    assert stage.unfinished(config, context) == []
    assert list(stage.chains_in(context.directory)) == expected
    assert stage.run(config, context, (6, 9)) == counts
    with pytest.raises(RecipeError, match="--shard 3/3: expected i/N"):
        stage.run(config, context, (3, 3))


def test_a_shard_in_other_hands_is_refused(configure: Configure, context: StageContext) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(3), texts_of(3, 3)])
    context.directory.mkdir()
    for engine in ("tests.synthesis.instant:InstantEngine", "mined"):
        task = ShardTask("shard-00001.jsonl", context.inputs[DOCUMENTS])
        with (
            task.locked(context.directory),
            pytest.raises(StageError, match=r"shard-00001: process .* is working on it.*--shard"),
        ):
            stage.run(configure(engine=engine), context)
    assert stage.run(configure(), context)["texts"] == 6


def test_other_settings_do_not_continue_a_journal(configure: Configure, context: StageContext) -> None:
    FailingEngine.fail_at = 3
    with pytest.raises(EngineError):
        run(configure(engine="tests.synthesis.test_stage:FailingEngine"), context, [texts_of(9)])
    with pytest.raises(StageError, match="started with other documents or settings"):
        stage.run(configure(chain_length=3), context)


class FailingEngine(InstantEngine):
    """Fails at request ``fail_at`` of the process."""

    fail_at = 0
    asked: ClassVar[list[str]] = []

    async def generate(self, request: Request) -> Completion:
        FailingEngine.fail_at -= 1
        if FailingEngine.fail_at == 0:
            raise EngineError("the engine has burnt down")
        await asyncio.sleep(0)
        FailingEngine.asked.append(text_of(request).split()[0])
        return await super().generate(request)


def test_an_engine_that_keeps_failing_still_gets_through(configure: Configure, context: StageContext) -> None:
    shards = [texts_of(20), texts_of(11, 20)]
    _, expected = run(configure(), context, shards)
    context.directory = context.directory.with_name("failing")
    config = configure(engine="tests.synthesis.test_stage:FailingEngine", **{"generation.window": 2})
    FailingEngine.asked = []
    failures = 0
    while True:
        FailingEngine.fail_at = 6
        try:
            stage.run(config, context)
            break
        except EngineError:
            failures += 1
    assert failures >= 3
    assert list(stage.chains_in(context.directory)) == expected
    # What was in flight when the engine failed was asked for again, nothing else.
    assert len(FailingEngine.asked) <= 31 + 4 * failures


class GaugedEngine(InstantEngine):
    """Measures how many requests are in flight."""

    most = 0
    now = 0

    async def generate(self, request: Request) -> Completion:
        GaugedEngine.now += 1
        GaugedEngine.most = max(GaugedEngine.most, GaugedEngine.now)
        await asyncio.sleep(0.02 * (1 + request.seed % 3))
        GaugedEngine.now -= 1
        return await super().generate(request)


def test_the_window_spans_shards_and_bounds_what_is_in_flight(configure: Configure, context: StageContext) -> None:
    config = configure(engine="tests.synthesis.test_stage:GaugedEngine", **{"generation.window": 5})
    run(config, context, [texts_of(4, 4 * number) for number in range(6)])
    assert GaugedEngine.most == 5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), length=st.integers(1, 4), window=st.integers(1, 9))
def test_interrupted_anywhere_the_result_is_the_same(
    configure: Configure, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, length: int, window: int
) -> None:
    root = tmp_path_factory.mktemp("any")
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    shards, start = [], 0
    for size in sizes:
        shards.append([text + " NOPAIRS" * (number % 5 == 4) for number, text in enumerate(texts_of(size, start))])
        start += size
    write_corpus(root / "corpus", shards)
    whole = StageContext("synthesis", root / "whole", 7, {DOCUMENTS: root / "corpus"})
    parts = StageContext("synthesis", root / "parts", 7, {DOCUMENTS: root / "corpus"})
    stage.run(configure(chain_length=length), whole)
    FailingEngine.fail_at = data.draw(st.integers(1, start + 1))
    config = configure(
        engine="tests.synthesis.test_stage:FailingEngine", chain_length=length, **{"generation.window": window}
    )
    for _ in range(2):
        try:
            stage.run(config, parts)
        except EngineError:
            continue
    for path in stage.list_shards(whole.directory):
        assert (parts.directory / path.name).read_bytes() == path.read_bytes()


def test_rejects_and_metrics_are_written(configure: Configure, context: StageContext) -> None:
    config = configure(**{"filters.max_question_characters": 20})
    counts, _ = run(config, context, [texts_of(3)])
    assert counts["dropped"] == {"question length": 3} and counts["pairs"] == 3
    lines = (context.directory / "rejects" / "shard-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["d0", "d1", "d2"]
    metrics = json.loads((context.directory / "metrics.jsonl").read_text().splitlines()[-1])
    assert (metrics["texts"], metrics["pairs"], metrics["in_flight"]) == (3, 3, 0)
    assert metrics["prompt_tokens"] == counts["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"engine": "openay"}, "engine: 'openay' is not one of .* Did you mean openai"),
        ({"engine": "openai", "generation.model": "''"}, r"generation\.model: required by the engine openai"),
        ({"engine": "replay"}, r"replay\.inputs: required"),
        ({"generation.max_new_tokens": 2000}, r"generation\.max_new_tokens: 2000 leaves no room for a prompt"),
        ({"filters.min_answer_characters": 5000}, r"filters\.min_answer_characters: is above"),
    ],
)
def test_impossible_settings(configure: Configure, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        configure(**overrides)


def test_an_engine_that_does_not_exist(configure: Configure, context: StageContext) -> None:
    with pytest.raises(RecipeError, match=r"synthesis\.engine: no\.such cannot be imported"):
        run(configure(engine="no.such:Engine"), context, [texts_of(1)])


def test_importing_the_section_imports_no_engine() -> None:
    code = (
        "import sys, megatron_ipt.synthesis.stage\n"
        "heavy = ('torch', 'transformers', 'openai', 'tensorrt_llm', 'tokenizers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fingerprints_cover_the_tokenizer(configure: Configure, tokenizer_folder: Path) -> None:
    (entry,) = stage.fingerprints(configure())
    assert entry["path"] == str(tokenizer_folder / "tokenizer.json")
    assert stage.fingerprints(configure(engine="mined")) == []


def test_progress_is_logged_elsewhere_than_on_a_terminal(
    configure: Configure, context: StageContext, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_ipt.progress.LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "megatron_ipt"):
        run(configure(), context, [texts_of(4)])
    line = next(message for message in caplog.messages if message.startswith("synthesis: 4/4 documents"))
    for figure in ("texts/s", "tokens/s", "pairs/text 2", "in flight 0"):
        assert figure in line


def test_run_ends_before_the_next_stage(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(texts_of(12)))
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'out'}\n"
        f"corpus:\n  inputs: [{tmp_path / 'texts.jsonl'}]\n  minimum_characters: 1\n  synthesis_share: 1.0\n"
        f"synthesis:\n  engine: tests.synthesis.test_stage:SilentEngine\n  generation:\n    model: {tokenizer_folder}\n"
    )
    command = [sys.executable, "-m", "megatron_ipt", "run", str(recipe)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "none of 12 texts got a pair" in done.stderr and "none of the first 10 answers gave a pair" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["corpus", "synthesis"]
