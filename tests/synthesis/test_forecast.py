"""Forecasts: the sample, the estimate with its interval, and that a run then uses what was said."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.inference.usage import Usage
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import actions, stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture
from megatron_ipt.synthesis.from_text.prompted.shard import chains_of_shard, planned
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.spending.forecast import before_any_answer, estimate, forecast_text, text_before
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, total_usage
from megatron_ipt.synthesis.spending.price import PriceConfig
from megatron_ipt.synthesis.spending.sample import sample_chains
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import texts_of, write_corpus

Configure = Callable[..., SynthesisConfig]


class TestEstimate:
    def test_a_value_that_goes_with_the_size_is_known_exactly(self) -> None:
        sizes = [3.0, 7.0, 11.0, 20.0]
        found = estimate([2 * size + 1 for size in sizes], sizes, mean_size=8.0, count=1000)
        assert found.total == pytest.approx(1000 * 17) and found.half_width == pytest.approx(0, abs=1e-6)

    def test_a_value_that_does_not(self) -> None:
        # Mean 10, residual variance 4 / 2, 100 things: 100 * sqrt((1 - 4/100) * 2 / 4) * 1.96.
        found = estimate([9, 11, 11, 9], [1, 1, 2, 2], mean_size=1.5, count=100)
        assert found.total == pytest.approx(1000)
        assert found.half_width == pytest.approx(1.96 * 100 * (0.96 * 0.5) ** 0.5)
        assert found.relative == pytest.approx(found.half_width / 1000)

    def test_everything_was_seen(self) -> None:
        assert estimate([9, 11, 12], [1, 2, 5], mean_size=8 / 3, count=3).half_width == 0
        assert estimate([9], [1], mean_size=1, count=1) == estimate([9], [2], mean_size=2, count=1)

    def test_two_say_nothing_about_a_thousand(self) -> None:
        assert estimate([9, 11], [1, 2], mean_size=1, count=1000).half_width == float("inf")
        assert estimate([], [], 0, 0).total == 0

    def test_intervals_hold_the_truth_95_times_in_100(self) -> None:
        draw = random.Random(5)
        population = [(size := draw.expovariate(1), size * 3 + draw.uniform(0, 4)) for _ in range(4000)]
        truth, mean_size = sum(value for _, value in population), sum(size for size, _ in population) / 4000
        hits = 0
        for _ in range(400):
            sizes, values = zip(*draw.sample(population, 120))
            found = estimate(values, sizes, mean_size, 4000)
            hits += abs(found.total - truth) <= found.half_width
        assert 0.92 <= hits / 400 <= 0.98


class TestSample:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> list[Path]:
        write_corpus(tmp_path / "corpus", [texts_of(30 + number, 100 * number) for number in range(6)])
        return sorted((tmp_path / "corpus/synthesis").iterdir())

    @pytest.fixture
    def form(self, styles: StyleMixture) -> Callable[[Path], list[Chain]]:
        return lambda path: list(chains_of_shard(path, styles, 2, 2400))

    def test_the_order_of_the_shards_does_not_matter(self, shards: list[Path], form: Any) -> None:
        sample = sample_chains(shards, 1, 20, form, 1e9)
        again = sample_chains(shards[::-1], 1, 20, form, 1e9)
        assert [chain.id for chain in sample.chains] == [chain.id for chain in again.chains]
        everything = [chain for path in shards for chain in form(path)]
        assert len(sample.chains) == 20 and sample.total_chains == len(everything)
        assert sample.total_texts == 6 * 30 + 15
        sizes = [sum(len(example.text) for example in chain.examples) for chain in everything]
        assert sample.mean_size == pytest.approx(sum(sizes) / len(sizes))
        # From everywhere, in random order: a smaller sample is the beginning of a larger one.
        assert len({int(chain.id[1:]) // 31 for chain in sample.chains}) >= 4
        assert sample_chains(shards, 1, 5, form, 1e9).chains == sample.chains[:5]
        assert [chain.id for chain in sample_chains(shards, 2, 20, form, 1e9).chains] != [
            chain.id for chain in sample.chains
        ]

    def test_small_corpora_are_taken_whole(self, shards: list[Path], form: Any) -> None:
        sample = sample_chains(shards[:1], 1, 100, form, 1e9)
        assert sorted(chain.id for chain in sample.chains) == sorted(chain.id for chain in form(shards[0]))
        assert sample_chains([], 1, 100, form, 1e9).chains == []

    def test_of_large_ones_some_shards_are_read(self, shards: list[Path], form: Any) -> None:
        sample = sample_chains(shards, 1, 1000, form, 2.5 * shards[0].stat().st_size)
        assert (sample.shards_read, sample.shards) == (2, 6)
        assert sample.total_texts == pytest.approx(195, rel=0.1)
        assert sample_chains(shards, 1, 1000, form, 0).shards_read == 1


class TestBeforeAnyAnswer:
    def test_tokens_are_those_of_a_run_with_such_answers(
        self, configure: Configure, context: StageContext, styles: StyleMixture
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [[*texts_of(9), " \n "]])
        (shard,) = (context.inputs[DOCUMENTS] / "synthesis").iterdir()
        sample = sample_chains([shard], 1, 100, lambda path: chains_of_shard(path, styles, 2, 2400), 1e9)
        usage = before_any_answer(sample, planned(enumerate(sample.chains), styles), 40)
        counts = stage.run(configure(), context)
        # Its answers have other lengths, and each is repeated in the next prompt of its chain.
        repeated = counts["prompt_tokens"] - usage.prompt_tokens
        assert usage.generated_tokens == 9 * 40 and counts["requests"] == 9
        assert abs(repeated) < 4 * abs(counts["generated_tokens"] / 9 - 40) + 60

    def test_what_is_known_and_what_is_assumed(self, tmp_path: Path, styles: StyleMixture) -> None:
        (shard,) = (write_corpus(tmp_path / "corpus", [texts_of(50)]) / "synthesis").iterdir()
        sample = sample_chains([shard], 1, 100, lambda path: chains_of_shard(path, styles, 1, 2400), 1e9)
        price = PriceConfig(input=0, output=1e4)
        line = text_before(sample, styles, price, Usage(), 400)
        assert line.startswith("about 50 texts, ") and "answers of 260 tokens (an assumption)" in line
        assert f": {50 * 260 / 100:.2f} USD, at most {50 * 400 / 100:.2f} USD. --forecast asks" in line
        line = text_before(sample, styles, PriceConfig(), Usage(answers=200, generated_tokens=8000), 400)
        assert line.endswith("2,000 out with answers of 40 tokens (as before)")

    def test_the_log_has_it_before_the_first_request(
        self, configure: Configure, context: StageContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])
        with caplog.at_level(logging.INFO, "megatron_ipt"):
            stage.run(configure(), context)
        assert next(message for message in caplog.messages).startswith("synthesis: about 4 texts, ")


@pytest.mark.parametrize(("length", "seed"), [(1, 1), (2, 2)])
def test_a_run_uses_what_was_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, seed: int) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    import bench_forecast

    bench_forecast.write_tokenizer(tmp_path / "tokenizer")
    corpus = bench_forecast.write_short_texts(tmp_path / "corpus", 1600, 1)
    forecast, used = bench_forecast.measure(tmp_path, corpus, length, seed)
    assert forecast["cost"] == pytest.approx(used["cost"], rel=0.05)
    assert forecast["answers"] == pytest.approx(used["answers"], rel=0.05) and forecast["texts"] == 1600
    for name in ("prompt_tokens", "generated_tokens"):
        assert forecast[name] == pytest.approx(used[name], rel=0.08)
    assert 100 <= forecast["asked_texts"] <= 402
    assert forecast["cost_half_width"] <= 0.05 * forecast["cost"] or forecast["asked_texts"] >= 400


class TestAction:
    def test_finished_shards_are_left_out_and_nothing_is_left_behind(
        self, configure: Configure, context: StageContext
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(30), texts_of(50, 30)])
        config = configure(price__input=1, price__output=2, price__currency="EUR")
        stage.run(config, context, (0, 2))
        before = sorted(path.name for path in context.directory.rglob("*"))
        result = actions.forecast(config, context)
        after = sorted(path.name for path in context.directory.rglob("*"))
        assert [name for name in after if name not in before] == ["forecast.json"]
        assert (result["texts"], result["answers"], result["asked_texts"]) == (50, 50, 50)
        assert result["cost_half_width"] == 0 and result["pairs_per_text"] == 2
        assert json.loads((context.directory / "forecast.json").read_text()) == result
        text = forecast_text(result)
        assert "cost         0.0" in text and "EUR (95 % interval" in text and "pairs        2.00 per text" in text
        usage = total_usage(context.directory / USAGE_FOLDER)
        assert usage is not None and usage.answers == 30 + 50
        # What is left costs what was said.
        counts = stage.run(config, context)
        assert counts["usage"]["answers"] == 130
        more = counts["usage"]["cost"] - config.price.cost(usage)
        assert more == pytest.approx(result["cost"], abs=2e-6)

    def test_without_prices_tokens_are_forecast(self, configure: Configure, context: StageContext) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(30)])
        result = actions.forecast(configure(), context)
        assert "cost" not in result
        tokens = result["prompt_tokens"] + result["generated_tokens"]
        assert f"all tokens   {tokens:,} (95 % interval" in forecast_text(result)

    def test_what_cannot_be_forecast(self, configure: Configure, context: StageContext) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])
        with pytest.raises(RecipeError, match=r"--forecast: synthesis\.engine is mined, which asks no model"):
            actions.forecast(configure(engine="mined"), context)
        stage.run(configure(), context)
        with pytest.raises(StageError, match="there are no texts left to ask about"):
            actions.forecast(configure(), context)

    def test_a_limit_holds_for_samples_as_well(self, configure: Configure, context: StageContext) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(40)])
        config = configure(price__input=1e6, price__output=0, price__limit=500)
        with pytest.raises(StageError, match=r"synthesis\.price\.limit: 500\.00 USD is reached"):
            actions.forecast(config, context)
