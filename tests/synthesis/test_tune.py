"""``--tune``: which numbers are tried, how speed is measured, and that what is found is nearly the best."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.inference.engine import EngineError, Request
from megatron_ipt.inference.usage import Usage
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import actions, stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.pairs import Chain, Example
from megatron_ipt.synthesis.speed.measure import Cohort, Timed, work_of
from megatron_ipt.synthesis.speed.search import chosen, next_number
from megatron_ipt.synthesis.speed.tune import _next, _turned, tune_text
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, total_usage
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.instant import InstantEngine

Configure = Callable[..., SynthesisConfig]


def searched(speed: Callable[[int], float], first: int = 4, most: int = 1024) -> tuple[int, list[int]]:
    """What the search chooses if speeds are measured exactly, and all that it tried, in order."""
    speeds: dict[int, float] = {}
    while (number := next_number(speeds, first, most)) is not None:
        assert number not in speeds and 1 <= number <= most
        speeds[number] = speed(number)
    return chosen(speeds), list(speeds)


class TestSearch:
    @pytest.mark.parametrize("slots", [1, 2, 3, 5, 16, 50, 64, 100, 333, 1000, 5000])
    def test_speed_that_grows_until_the_engine_is_full(self, slots: int) -> None:
        found, tried = searched(lambda number: min(number, slots))
        assert min(found, slots) >= 0.95 * min(slots, 1024)
        # The smallest that will do, up to the width of a gap.
        assert found <= slots * 1.15 + 1
        assert len(tried) <= 14

    @pytest.mark.parametrize("slots", [6, 16, 50, 100, 333])
    @pytest.mark.parametrize("width", [1.0, 1.5])
    def test_speed_that_falls_when_prefixes_are_evicted(self, slots: int, width: float) -> None:
        def speed(number: int) -> float:
            return min(number, slots) * (1.0 if number <= slots * width else 0.7)

        found, tried = searched(speed)
        assert speed(found) >= 0.9 * slots and len(tried) <= 16

    @pytest.mark.parametrize("scale", [8, 64, 300])
    def test_speed_that_saturates_slowly(self, scale: int) -> None:
        def speed(number: int) -> float:
            return 1 - math.exp(-number / scale)

        found, _ = searched(speed)
        assert speed(found) >= 0.95 * speed(1024)

    def test_an_engine_that_only_suffers(self) -> None:
        assert searched(lambda number: 1 / number)[0] == 1

    def test_limits(self) -> None:
        assert searched(lambda number: number, first=4, most=10)[0] == 10
        assert searched(lambda number: number, first=4, most=2) == (2, [2, 1])
        assert chosen({4: 98.9, 8: 99.1, 16: 100.0}) == 8


class TestCohort:
    def test_without_a_queue_only_its_own_work_delays_a_chain(self) -> None:
        # 10 ms a token: 2 s for 200 tokens, whatever others do.
        def cohort(*lengths: int) -> Cohort:
            return Cohort(6, [Timed(own / 100, own, more) for own, more in zip(lengths, (700, 100, 400, 200, 900))])

        short, long = cohort(50, 100, 150, 120, 80), cohort(250, 300, 350, 260, 320)
        assert short.speed(200) == pytest.approx(3.0) and long.speed(200) == pytest.approx(3.0)
        assert short.relative_error == pytest.approx(0, abs=1e-9)

    def test_in_a_queue_a_chain_waits_for_all_that_ends_meanwhile(self) -> None:
        # 100 tokens a second whatever the window, and no sooner for chains with little work.
        assert Cohort(8, [Timed(9.0, 50, 900), Timed(7.0, 90, 700)]).speed(120) == pytest.approx(100 / 120)

    def test_error_is_that_of_the_mean(self) -> None:
        # Residuals of 1, -1, 1, -1 around 10 s, with two degrees of freedom: sqrt(4 / 2 / 4) / 10.
        rows = ((1, 1), (1, -1), (3, 1), (3, -1))
        cohort = Cohort(2, [Timed(10 + sign, work, 0) for work, sign in rows])
        assert cohort.relative_error == pytest.approx(math.sqrt(0.5) / 10)
        assert Cohort(2, cohort.chains[:2]).relative_error == math.inf

    def test_what_chance_suggests_is_bounded(self) -> None:
        # More work cannot be faster, and it cannot take more than all the time there was.
        backwards = Cohort(1, [Timed(3.0, 100, 101), Timed(2.0, 101, 101), Timed(1.0, 102, 101)])
        assert backwards.speed(202) == 1 / 4
        steep = Cohort(1, [Timed(1.0, 100, 50), Timed(2.0, 101, 50), Timed(3.0, 102, 50)])
        assert steep.speed(202) == pytest.approx(1 / 4)

    def test_an_engine_without_delay_or_work(self) -> None:
        assert Cohort(2, [Timed(0.0, 5, 5)] * 5).speed(5) > 0
        assert Cohort(2, [Timed(1.0, 0, 0)] * 5).speed(0) == 2


class TestSeveralMeasurements:
    @staticmethod
    def cohort(window: int, speed: float) -> Cohort:
        return Cohort(window, [Timed(window / speed, 1, window)] * 4)

    def test_a_lucky_one_does_not_win(self) -> None:
        cohorts = {4: [self.cohort(4, 4.0)], 8: [self.cohort(8, 9.0)], 16: [self.cohort(16, 8.0)]}
        for number in (6, 7, 11, 9):
            cohorts[number] = [self.cohort(number, 6.0)]
        assert _next(cohorts, 4, 16) == 8
        cohorts[8].append(self.cohort(8, 5.0))
        # 6.4 on average, no longer the fastest: now that is 16, to be measured again.
        assert _next(cohorts, 4, 16) in (13, 16)

    def test_twice_if_they_agree_else_three_times(self) -> None:
        cohorts = {1: [self.cohort(1, 5.0)], 2: [self.cohort(2, 4.0)]}
        assert _next(cohorts, 1, 2) == 1
        assert _next(cohorts | {1: [self.cohort(1, 5.0), self.cohort(1, 5.2)]}, 1, 2) is None
        differing = [self.cohort(1, 5.0), self.cohort(1, 7.0)]
        assert _next(cohorts | {1: differing}, 1, 2) == 1
        assert _next(cohorts | {1: [*differing, self.cohort(1, 9.0)]}, 1, 2) is None


def test_work_of_an_answer() -> None:
    assert work_of(Usage(prompt_tokens=500, cached_tokens=100, generated_tokens=50)) == 50 + 400 / 4


def test_texts_that_are_used_again_begin_otherwise() -> None:
    chain = Chain("d0", "train", [Example("d0", "one two three four five six"), Example("d1", "word")])
    assert _turned(chain, 0) is chain
    starts = {_turned(chain, turn).examples[0].text.split()[0] for turn in range(4)}
    assert len(starts) >= 3
    for turn in range(4):
        first, second = _turned(chain, turn).examples
        assert sorted(first.text.split()) == ["five", "four", "one", "six", "three", "two"] and second.text == "word"


@pytest.mark.parametrize(("length", "cached"), [(1, 0), (2, 24)])
def test_what_is_found_is_nearly_the_best_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, cached: int
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    import bench_synthesis
    import bench_tune

    monkeypatch.setattr(bench_synthesis, "TEXT_TOKENS", 200)
    # The same texts whatever becomes of the sources that the benchmark reads.
    monkeypatch.setattr(bench_synthesis, "sample_paragraphs", lambda: texts_of(60, 300))
    bench_tune.write_tokenizer(tmp_path / "tokenizer")
    bench_tune.write_corpus(tmp_path / "corpus-400", tmp_path / "tokenizer", 400)
    bench = bench_tune.Bench(tmp_path, length, 24, cached, 400)
    result, speeds, reached = bench_tune.compare(bench, [17, 24, 28, 34])
    assert reached >= 0.95, (result, speeds)
    assert result["complete"] and result["key"] == "synthesis.generation.window" and 20 <= result["value"] <= 40
    # Its own measurements agree with the sweep.
    measured = {row["value"]: row["texts_per_second"] for row in result["tried"]}
    assert measured[result["value"]] == pytest.approx(bench.speed(result["value"]), rel=0.06)


def context_of(tmp_path: Path, texts: int = 60) -> StageContext:
    write_corpus(tmp_path / "corpus", [texts_of(texts)])
    return StageContext("synthesis", tmp_path / "synthesis", 7, {DOCUMENTS: tmp_path / "corpus"})


class PacedEngine(InstantEngine):
    """Works on five requests at a time, each as long as its answer is."""

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self._slots = asyncio.Semaphore(5)
        self._now = 0

    async def generate(self, request: Request) -> Any:
        self._now += 1
        async with self._slots:
            await asyncio.sleep(len(self.tokenizer.encode([self.answer(request)])[0]) / 50)
        self._now -= 1
        return await super().generate(request)


class BurntEngine(PacedEngine):
    """Fails when more than four requests are under way."""

    async def generate(self, request: Request) -> Any:
        if self._now >= 4:
            raise EngineError("out of memory")
        return await super().generate(request)


class RuinedEngine(InstantEngine):
    async def generate(self, request: Request) -> Any:
        raise EngineError("no graphics card")


class EndlessEngine(InstantEngine):
    async def generate(self, request: Request) -> Any:
        await asyncio.sleep(1000)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are run on a simulated clock."""
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    from bench_tune import run_simulated

    monkeypatch.setattr(actions, "run_coroutine", run_simulated)


@pytest.mark.usefixtures("simulated")
class TestAction:
    def test_it_leaves_no_pairs_behind_but_counts_what_it_asked(
        self, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        context = context_of(tmp_path)
        config = configure(engine="tests.synthesis.test_tune:PacedEngine", chain_length=1)
        with caplog.at_level(logging.INFO, "megatron_ipt"):
            result = actions.tune(config, context)
        assert json.loads((context.directory / "tune.json").read_text()) == result
        assert sorted(path.name for path in context.directory.iterdir()) == ["tune.json", USAGE_FOLDER]
        assert config.generation.window is None
        assert 5 <= result["value"] <= 16 and result["complete"]
        usage = total_usage(context.directory / USAGE_FOLDER)
        assert usage is not None and usage.answers == result["answers"] > 60, "texts are used again"
        mean_seconds = usage.generated_tokens / usage.answers / 50
        assert result["texts_per_second"] == pytest.approx(5 / mean_seconds, rel=0.06)
        assert "synthesis: trying values of generation.window from 2 to at most 32 with texts" in caplog.text
        assert "synthesis: generation.window 2: 1." in caplog.text
        text = tune_text(result)
        assert text.endswith("In the recipe:\nsynthesis:\n  generation:\n    window: " + str(result["value"]))
        assert len([line for line in text.splitlines() if line.endswith("<-")]) == 1
        # The stage begins as if nothing had happened.
        counts = stage.run(configure(chain_length=1), context)
        assert counts["texts"] == 60 and counts["usage"]["answers"] == usage.answers + 60

    def test_an_engine_that_is_not_always_as_fast(self, configure: Configure, tmp_path: Path) -> None:
        config = configure(engine="tests.synthesis.test_tune:PacedEngine", chain_length=1)
        steady = actions.tune(config, context_of(tmp_path))
        assert 0 < abs(steady["drift"]) < 0.1 and "not reliable" not in tune_text(steady)
        text = tune_text(steady | {"drift": -0.4})
        assert f"not reliable: measured again, {steady['value']} was 40% slower. Something else" in text

    def test_an_engine_that_fails_at_a_size(self, configure: Configure, tmp_path: Path) -> None:
        context = context_of(tmp_path)
        result = actions.tune(configure(engine="tests.synthesis.test_tune:BurntEngine"), context)
        assert (result["value"], result["complete"], result["note"]) == (4, False, "stopped at 16: out of memory")
        assert "not finished: stopped at 16" in tune_text(result)
        with pytest.raises(EngineError, match="no graphics card"):
            actions.tune(configure(engine="tests.synthesis.test_tune:RuinedEngine"), context)

    def test_time_is_up(self, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        context = context_of(tmp_path)
        config = configure(engine="tests.synthesis.test_tune:PacedEngine", chain_length=1)
        monkeypatch.setattr(actions, "MOST_SECONDS", 40)
        result = actions.tune(config, context)
        assert not result["complete"] and "time was up after 0:40" in result["note"] and result["value"] >= 2
        assert result["seconds"] <= 40
        with pytest.raises(StageError, match=r"0 answers in 0:40 are too few to measure anything. Lower synthesis"):
            actions.tune(configure(engine="tests.synthesis.test_tune:EndlessEngine"), context)


def test_what_cannot_be_tuned(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--tune: synthesis\.engine is mined, which asks no model"):
        actions.tune(configure(engine="mined"), context_of(tmp_path))
    with pytest.raises(StageError, match="there are no texts left to ask about"):
        actions.tune(configure(), context_of(tmp_path, 0))


def test_transformers_is_tuned_by_its_batch_size(configure: Configure, tmp_path: Path, model_folder: Path) -> None:
    pytest.importorskip("torch")
    config = configure(
        engine="transformers", generation__model=str(model_folder), generation__max_new_tokens=2, chain_length=1,
        transformers__batch_size=2, transformers__device="cpu",
    )  # fmt: skip
    result = actions.tune(config, context_of(tmp_path))
    assert result["key"] == "synthesis.transformers.batch_size" and config.transformers.batch_size == 2
    assert all(row["window"] == 4 * row["value"] for row in result["tried"])
    assert tune_text(result).endswith(f"synthesis:\n  transformers:\n    batch_size: {result['value']}")


def test_the_command(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": f"d{number}", "text": text}) + "\n" for number, text in enumerate(texts_of(40)))
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'out'}\n"
        f"corpus:\n  inputs: [{tmp_path / 'texts.jsonl'}]\n  minimum_characters: 1\n  synthesis_share: 1.0\n"
        "synthesis:\n  engine: tests.synthesis.instant:InstantEngine\n"
        f"  generation:\n    model: {tokenizer_folder}\n  price: {{input: 1, output: 2}}\n"
    )

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "megatron_ipt", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("corpus", str(recipe))
    table = call("synthesize", str(recipe), "--tune")
    assert "of best" in table and "In the recipe:\nsynthesis:\n  generation:\n    window: " in table
    assert json.loads(call("synthesize", str(recipe), "--tune", "--json"))["key"] == "synthesis.generation.window"
    assert "95 % interval" in call("synthesize", str(recipe), "--forecast")
    assert json.loads(call("synthesize", str(recipe), "--forecast", "--json"))["answers"] == 40
