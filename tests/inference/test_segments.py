"""Answers generated a few tokens at a time are those that one request gives, and end when there is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import xxhash

from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.segments import generate_until_enough
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.seeding import derive
from tests.synthesis.http_server import Server, completion

Settings = Callable[..., EngineSettings]
_LIKELY = 1 / 40
"""Probability of EOS."""


class Hashing(Engine):
    """The next token is a hash of all ids before it: greedy decoding of a model that nobody can predict."""

    def __init__(self, settings: EngineSettings, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Completion:
        self.requests.append(request)
        assert request.enough is None
        ids = list(request.prompt.ids)
        for _ in range(request.sampling.max_new_tokens):
            drawn = xxhash.xxh3_64_intdigest(repr(ids).encode())
            ids.append(self.tokenizer.eos_id if drawn < _LIKELY * 2**64 else 3 + drawn % 500)
        answer = ids[len(request.prompt.ids) :]
        return self.completion(answer, False, len(request.prompt.ids), sampling=request.sampling)

    def continues(self, request: Request) -> bool:
        return request.sampling.json_schema is None


@pytest.fixture
def engine(engine_settings: Settings, tokenizer: Any) -> Hashing:
    return Hashing(engine_settings("hashing"), tokenizer)


def ask(engine: Engine, request: Request) -> Completion:
    return asyncio.run(generate_until_enough(engine, request))


def never(text: str) -> bool:
    return False


@pytest.mark.parametrize("every", [1, 7, 32, 100])
def test_segments_make_the_answer_of_one_request(engine: Hashing, every: int) -> None:
    finished = set()
    for number in range(40):
        prompt = Prompt([1, number + 3], "")
        whole = ask(engine, Request(prompt, Sampling(50)))
        asked = len(engine.requests)
        answer = ask(engine, Request(prompt, Sampling(50), enough=never, check_tokens=every))
        assert (answer.ids, answer.text, answer.finished) == (whole.ids, whole.text, whole.finished)
        assert answer.prompt_tokens == 2 and not answer.enough
        segments = engine.requests[asked:]
        assert sum(request.sampling.max_new_tokens for request in segments) <= 50
        assert all(request.sampling.max_new_tokens <= every for request in segments)
        finished.add(whole.finished)
    assert finished == {True, False}


def test_stop_strings_end_it_wherever_they_lie(engine: Hashing) -> None:
    prompt = Prompt([1, 5], "")
    whole = ask(engine, Request(prompt, Sampling(30)))
    assert len(whole.text) == 30
    for start in range(20):
        sampling = Sampling(30, stop=(whole.text[start : start + 8],))
        at_once = ask(engine, Request(prompt, sampling))
        for every in (1, 2, 5):
            answer = ask(engine, Request(prompt, sampling, enough=never, check_tokens=every))
            assert (answer.text, answer.finished) == (at_once.text, True)


def test_it_ends_when_there_is_enough(engine: Hashing) -> None:
    prompt = Prompt([1, 5], "")
    whole = ask(engine, Request(prompt, Sampling(30)))
    seen: list[str] = []

    def enough(text: str) -> bool:
        seen.append(text)
        return len(seen) == 3

    answer = ask(engine, Request(prompt, Sampling(30), enough=enough, check_tokens=4))
    assert answer.ids == whole.ids[:12] and answer.finished and answer.enough
    assert seen == [engine.tokenizer.decode(whole.ids[:count]) for count in (4, 8, 12)]


def test_every_segment_of_a_sampled_answer_has_a_seed_of_its_own(engine: Hashing) -> None:
    request = Request(Prompt([1, 5], "x"), Sampling(12, temperature=0.5), 9, 77, never, 4)
    ask(engine, request)
    seeds = [77, *(derive(77, "segment", number) % (1 << 31) for number in (1, 2))]
    assert [each.seed for each in engine.requests] == seeds and {each.chain for each in engine.requests} == {9}
    assert engine.requests[2].prompt.ids[:6] == engine.requests[1].prompt.ids


def test_an_answer_that_a_schema_constrains_is_asked_for_at_once(engine: Hashing) -> None:
    request = Request(Prompt([1, 5], ""), Sampling(20, json_schema={}), enough=never, check_tokens=4)
    ask(engine, request)
    assert [each.sampling.max_new_tokens for each in engine.requests] == [20]


def test_a_server_is_asked_a_few_tokens_at_a_time(engine_settings: Settings, tokenizer_folder: Any) -> None:
    pytest.importorskip("openai")

    def answer(number: int, body: dict[str, Any]) -> dict[str, Any]:
        last = body["prompt"][-1]
        ids = list(range(last + 1, last + 1 + body["max_tokens"]))
        reply = completion(body, "", finish_reason="length", token_ids=ids)
        reply["usage"]["completion_tokens"] = len(ids)
        return reply

    with Server(answer) as server:
        own = OpenAIConfig([server.url], "vllm", timeout=60, patience=60)
        engine = open_engine(engine_settings("openai", own, model="tiny", tokenizer=str(tokenizer_folder)))

        async def work() -> Completion:
            async with engine:
                request = Request(Prompt([1, 20], "x"), Sampling(11), enough=never, check_tokens=4)
                return await generate_until_enough(engine, request)

        done = asyncio.run(work())
    assert done.ids == list(range(21, 32)) and not done.finished
    assert (done.prompt_tokens, done.generated_tokens) == (2, 11)
    # The first request checks the server.
    sent = [(len(body["prompt"]), body["max_tokens"]) for body in server.bodies[1:]]
    assert sent == [(2, 4), (6, 4), (10, 3)]


@pytest.mark.parametrize(
    ("server", "schema", "continues"),
    [
        ("vllm", None, True),
        ("vllm", {"type": "object"}, False),
        ("trtllm-serve", {"type": "object"}, True),  # It cannot constrain the answer.
        ("openai-compatible", None, False),  # It does not return the ids.
        ("transformers-serve", None, False),
    ],
)
def test_which_servers_can_continue_an_answer(
    engine_settings: Settings, tokenizer_folder: Any, server: str, schema: Any, continues: bool
) -> None:
    pytest.importorskip("openai")
    settings = engine_settings("openai", OpenAIConfig(server=server), tokenizer=str(tokenizer_folder))
    request = Request(Prompt([1], ""), Sampling(4, json_schema=schema))
    assert open_engine(settings).continues(request) == continues
