"""When servers fail and recover: what is logged, and what is not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig
from megatron_ipt.inference.engine import Prompt, Request
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.openai.outage import Outage
from megatron_ipt.inference.run import generate_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from tests.synthesis.http_server import Faults, Server, completion

pytest.importorskip("openai")
URL = "http://node1:8000/v1"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.INFO, "megatron_ipt")
    return Outage(URL, 900, clock)


def test_a_lost_server_is_reported_once_and_again_when_it_is_back(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        outage.failed("connection failed: refused")
        clock.now += 0.1
    (message,) = caplog.messages
    assert message.startswith(f"{URL}: requests have been failing since ")
    assert message.endswith("(connection failed: refused); retrying each for up to 900 s")
    outage.answered()
    outage.answered()
    assert caplog.messages[1:] == [f"{URL}: answers again after 50 s"]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_single_failures_are_not_reported(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        outage.failed("status 500")
        outage.failed("status 500")
        outage.answered()
    assert caplog.messages == []


def test_a_timeout_is_reported_at_once(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.failed("no answer within 600 s", timed_out=True)
    assert len(caplog.messages) == 1


def test_a_server_that_comes_and_goes_is_reported_at_most_once_a_minute(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(120):
        for _ in range(3):
            outage.failed("status 503")
        outage.answered()
        clock.now += 1
    assert [message.split(": ", 1)[1][:8] for message in caplog.messages] == ["requests", "answers "] * 2


@pytest.mark.parametrize("fault", [Faults.disconnect, Faults.status(503), Faults.garbage])
def test_the_engine_reports_its_servers(
    fault: Callable[..., object], tokenizer_folder: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "megatron_ipt")
    with Server(lambda n, body: fault(body) if 3 <= n < 9 else completion(body)) as server:
        own = OpenAIConfig([server.url], "openai-compatible", patience=60, max_backoff=0.02)
        settings = EngineSettings("openai", GenerationConfig("tiny", str(tokenizer_folder)), own)
        requests = [Request(Prompt([1, 5], "a"), Sampling(9), chain=number) for number in range(6)]
        assert len(generate_all(open_engine(settings), requests, window=2)) == 6
    messages = [message for message in caplog.messages if server.url in message]
    assert len(messages) == 2
    assert "requests have been failing since" in messages[0] and "answers again after" in messages[1]
