"""The ledger: exact, whatever kills its processes; and what it makes of prices."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.inference.usage import Usage
from megatron_ipt.manifest import StageContext, fingerprint_stage, run_stage
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, Ledger, total_usage, usage_summary, usage_text
from megatron_ipt.synthesis.spending.outlook import Outlook
from megatron_ipt.synthesis.spending.price import PriceConfig
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.http_server import Server, completion

Configure = Callable[..., SynthesisConfig]
PRICE = PriceConfig(input=2.0, cached_input=0.5, output=10.0, currency="EUR")


class TestPrice:
    def test_cached_tokens_have_their_own_price(self) -> None:
        usage = Usage(prompt_tokens=3_000_000, cached_tokens=1_000_000, generated_tokens=500_000)
        assert PRICE.cost(usage) == 2 * 2.0 + 0.5 + 5.0
        assert PriceConfig(input=2.0, output=10.0).cost(usage) == 3 * 2.0 + 5.0
        assert PriceConfig().cost(usage) == 0 and not PriceConfig().given

    @pytest.mark.parametrize(
        ("cost", "text"),
        [
            (0.0, "0.00 EUR"),
            (1234.5, "1,234.50 EUR"),
            (0.25, "0.25 EUR"),
            (0.0123, "0.012 EUR"),
            (3e-5, "0.000030 EUR"),
        ],
    )
    def test_amounts_for_people(self, cost: float, text: str) -> None:
        assert PRICE.text(cost) == text

    @pytest.mark.parametrize(
        ("prices", "message"),
        [
            ({"limit": 3}, r"limit: needs the prices input and output"),
            ({"cached_input": 3}, r"cached_input: needs the prices"),
            ({"input": 3}, r"output: required with the other price; 0 if it is free"),
            ({"input": 3, "output": -1}, r"output: -1.0 is below"),
        ],
    )
    def test_half_a_price_is_refused(self, prices: dict[str, float], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            load(SynthesisConfig, {"price": prices})

    def test_free_output_is_a_price(self) -> None:
        assert load(SynthesisConfig, {"price": {"input": 1, "output": 0}}).price.given


class TestLedger:
    def test_processes_add_up_and_a_later_one_continues_a_file(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, PRICE) as first, Ledger(tmp_path, PRICE) as second:
            first.asked()
            first.answered(100, 40, 7)
            second.asked()
            second.asked()
            second.answered(50, 0, 3)
            second.failed()
        with Ledger(tmp_path, PRICE) as third:
            assert third.total() == Usage(3, 2, 1, 0, 150, 40, 10)
            third.asked()
            third.answered(1, 1, 1)
            assert third.spent() == Usage(1, 1, 0, 0, 1, 1, 1)
        assert total_usage(tmp_path) == Usage(4, 3, 1, 0, 151, 41, 11)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["process-000.json", "process-001.json"]

    def test_more_cached_than_asked_is_not_more_than_all(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, PRICE) as ledger:
            ledger.answered(10, 64, 1)
            assert ledger.usage.cached_tokens == 10

    def test_a_price_needs_usage(self, tmp_path: Path) -> None:
        message = r"synthesis\.price: .* no usage\.completion_tokens"
        with pytest.raises(StageError, match=message), Ledger(tmp_path, PRICE) as ledger:
            ledger.answered(10, 0, None)
        with Ledger(tmp_path, PriceConfig()) as ledger:
            ledger.answered(10, 0, None)
        assert total_usage(tmp_path) == Usage(answers=2, answers_without_usage=2, prompt_tokens=20)

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "process-000.json").write_bytes(bytes(256))
        with pytest.raises(InputError, match=r"process-000\.json: not a file of the ledger"):
            total_usage(tmp_path)
        with (
            pytest.raises(InputError, match=r"process-000\.json: .*delete it to count from 0"),
            Ledger(tmp_path, PRICE),
        ):
            pass

    def test_without_one_there_is_nothing(self, tmp_path: Path) -> None:
        assert total_usage(tmp_path / "none") is None

    def test_the_largest_counts_fit(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, PRICE) as ledger:
            ledger.usage = Usage(*[2**63 - 1] * 7)
            ledger.changed()
        assert total_usage(tmp_path) == Usage(*[2**63 - 1] * 7)
        assert (tmp_path / "process-000.json").stat().st_size == 256

    def test_for_people_and_the_manifest(self) -> None:
        usage = Usage(12, 10, 1, 0, 3000, 1000, 400)
        text = "10 answers, 3,000 tokens in (1,000 cached), 400 tokens out, 1 requests without an answer"
        assert usage_text(usage, PriceConfig()) == text
        assert usage_text(usage, PRICE) == f"{text}, 0.0085 EUR"
        assert usage_summary(usage, PRICE)["cost"] == 0.0085 and usage_summary(usage, PRICE)["unanswered"] == 1
        assert "cost" not in usage_summary(usage, PriceConfig())


def test_the_expected_total(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRICE) as ledger:
        ledger.answered(1_000_000, 0, 0)  # 2 EUR before this process began
    with Ledger(tmp_path, PRICE) as ledger:
        outlook = Outlook(ledger, PRICE)
        ledger.answered(500_000, 0, 0)
        assert outlook.shown(99, 300) == {"cost": "3.00 EUR"} and outlook.figures(99, 300) == {}
        # 1 EUR for 100 documents, 300 to come.
        assert outlook.expected(100, 300) == pytest.approx(6.0)
        assert outlook.shown(100, 300) == {"cost": "3.00 EUR of about 6.00 EUR"}
        assert outlook.expected(100, None) is None
        assert Outlook(ledger, PriceConfig()).shown(100, 300) == {}


class TestStage:
    def test_counts_log_and_metrics_name_what_was_used(
        self, configure: Configure, context: StageContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])
        config = configure(price__input=1, price__output=2)
        with caplog.at_level(logging.INFO, "megatron_ipt"):
            counts = stage.run(config, context)
        usage = counts["usage"]
        assert (usage["requests"], usage["answers"], usage["unanswered"]) == (4, 4, 0)
        assert usage["prompt_tokens"] == counts["prompt_tokens"]
        assert usage["generated_tokens"] == counts["generated_tokens"]
        assert usage["cost"] == pytest.approx(
            (counts["prompt_tokens"] + 2 * counts["generated_tokens"]) / 1e6, abs=1e-6
        )
        assert any(message.startswith("synthesis: used so far: 4 answers, ") for message in caplog.messages)
        line = json.loads((context.directory / "metrics.jsonl").read_text().splitlines()[-1])
        assert (line["ledger_answers"], line["ledger_cost"]) == (4, usage["cost"])
        # Rerun: nothing is asked, nothing is paid.
        assert stage.run(config, context)["usage"] == usage

    def test_a_limit_stops_the_run_and_a_higher_one_resumes_it(
        self, configure: Configure, context: StageContext
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(40)])
        settings: dict[str, Any] = {"price__input": 1e6, "price__output": 0, "generation__window": 4}
        with pytest.raises(
            StageError, match=r"synthesis\.price\.limit: 1,500\.00 USD is reached: \d+ answers"
        ) as raised:
            stage.run(configure(**settings, price__limit=1500), context)
        usage = total_usage(context.directory / USAGE_FOLDER)
        assert usage is not None and usage.unanswered == 0
        # A million tokens cost a million: stopped at the limit, plus at most what was in flight.
        longest = max(len(text) for text in texts_of(40)) * 2 + 200
        assert 1500 <= usage.prompt_tokens < 1500 + 4 * longest
        assert f"{usage.answers:,} answers have cost" in str(raised.value)
        with pytest.raises(StageError, match=r"is reached"):
            stage.run(configure(**settings, price__limit=1500), context)
        assert total_usage(context.directory / USAGE_FOLDER) == usage
        counts = stage.run(configure(**settings), context)
        # Chains with one answer when the limit came are asked again; the rest is not.
        assert 40 <= counts["usage"]["answers"] <= 40 + 4 and counts["texts"] == 40

    def test_what_is_spent_is_no_part_of_the_identity_and_outlives_overwrite(
        self, configure: Configure, context: StageContext
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])

        def run(seed: int) -> str:
            run_stage(context, {"seed": seed}, [], lambda: stage.run(configure(), context), True, keeps=(USAGE_FOLDER,))
            return str(fingerprint_stage(context.directory)["identity"])

        first = run(1)
        (context.directory / "old").mkdir()
        run(2)
        assert not (context.directory / "old").exists()
        usage = total_usage(context.directory / USAGE_FOLDER)
        assert usage is not None and usage.answers == 8
        assert run(1) == first

    def test_a_ledger_from_before_is_not_shown_for_pairs_without_a_model(
        self, configure: Configure, context: StageContext
    ) -> None:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(4)])
        with Ledger(context.directory / USAGE_FOLDER, PRICE) as ledger:
            ledger.asked()
        assert "usage" not in stage.run(configure(engine="mined"), context)


GENERATED, CACHED = 9, 4


class CountingServer:
    """A completions server that counts what it received and what it answered, and takes some milliseconds."""

    def __init__(self) -> None:
        self.received = self.served = 0
        self._random = random.Random(3)
        self._mutex = threading.Lock()

    async def __call__(self, number: int, body: dict[str, Any]) -> Any:
        import asyncio

        self.received += 1
        await asyncio.sleep(self._random.uniform(0, 0.02))
        answer = completion(body)
        answer["usage"]["prompt_tokens_details"] = {"cached_tokens": CACHED}
        self.served += 1
        return answer


def work(root: Path, tokenizer: Path, url: str, share: tuple[int, int]) -> None:
    """One process of a run."""
    settings = {
        "engine": "openai",
        "openai.base_urls": f"[{url}]",
        "generation.model": "tiny",
        "generation.tokenizer": tokenizer,
        "generation.context_length": 1024,
        "generation.max_new_tokens": 128,
        "generation.window": WINDOW,
        "price.input": 1,
        "price.output": 1,
    }
    config = load(SynthesisConfig, None, [f"{name}={value}" for name, value in settings.items()])
    context = StageContext("synthesis", root / "synthesis", 7, {DOCUMENTS: root / "corpus"})
    stage.run(config, context, None if share == (0, 1) else share)


WINDOW = 4


@pytest.mark.parametrize("shares", [1, 2])
def test_killed_at_random_nothing_that_was_paid_for_is_missing(
    tmp_path: Path, tokenizer_folder: Path, shares: int
) -> None:
    pytest.importorskip("openai")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["tests.synthesis.test_ledger", "openai", "tokenizers"])
    write_corpus(tmp_path / "corpus", [texts_of(25, 25 * number) for number in range(4)])
    folder = tmp_path / "synthesis" / USAGE_FOLDER
    choose = random.Random(shares)
    counting = CountingServer()
    processes_killed = 0
    with Server(counting) as server:
        for attempt in range(200):
            processes = [
                forkserver.Process(target=work, args=(tmp_path, tokenizer_folder, server.url, (index, shares)))
                for index in range(shares)
            ]
            for process in processes:
                process.start()
            before = counting.received
            # Killed soon after its first requests, whatever time starting takes here; the last attempts are let be.
            if attempt < 6:
                while counting.received < before + 3 and any(process.is_alive() for process in processes):
                    time.sleep(0.001)
                time.sleep(choose.uniform(0, 0.1))
                for process in processes:
                    process.kill()
            for process in processes:
                process.join()
            assert all(process.exitcode in (0, -9) for process in processes)
            processes_killed += sum(process.exitcode == -9 for process in processes)
            usage = total_usage(folder)
            assert usage is not None
            # Counters of one answer are stored together, never in part.
            assert usage.generated_tokens == GENERATED * usage.answers
            assert usage.cached_tokens == CACHED * usage.answers
            in_flight = (WINDOW + 1) * processes_killed
            assert 0 <= usage.requests - counting.received <= in_flight
            assert 0 <= counting.served - usage.answers <= in_flight
            assert 0 <= usage.unanswered <= in_flight
            if all(process.exitcode == 0 for process in processes):
                break
    assert processes_killed >= 4, "the kills came too late to test anything"
    assert usage.answers > 100
