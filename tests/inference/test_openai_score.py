"""Scores from servers, with answers of the shape that vLLM, OpenAI's documentation and llama.cpp's server have.

The mock refuses a request that the real server would refuse, and answers only what it was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import EngineError
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import score_all
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from tests.synthesis.http_server import Faults, Server

pytest.importorskip("openai")

_VLLM_FIELDS = frozenset((
    "model", "prompt", "max_tokens", "temperature", "top_p", "seed", "add_special_tokens", "return_token_ids",
    "prompt_logprobs",
))  # fmt: skip


def log_likelihood(ids: list[int], place: int) -> float:
    """A made-up model: what it thinks of a token depends on the one before."""
    return -((ids[place - 1] * 7 + ids[place]) % 50) / 8 - 0.125


def expected(request: ScoreRequest) -> Score:
    places = [place for place in range(1, len(request.ids)) if request.mask is None or request.mask[place]]
    return Score(sum(log_likelihood(list(request.ids), place) for place in places), len(places))


def wrap(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    tokens = len(body["prompt"])
    return {
        "id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "text": " x", "finish_reason": "length", "stop_reason": None} | choice],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1},
    }  # fmt: skip


def vllm(body: dict[str, Any], wrong: Any = None) -> Any:
    """vLLM 0.33: ``prompt_logprobs`` 0 gives a table with the prompt's own token, 1 the likeliest besides."""
    unknown = body.keys() - _VLLM_FIELDS
    if unknown or body["max_tokens"] < 1 or not isinstance(body["prompt"], list):
        return (400, json.dumps({"error": {"message": f"refused: {sorted(unknown)}"}}).encode(), {})
    ids = body["prompt"]
    entries: list[Any] | None = None
    if "prompt_logprobs" in body:
        entries = [None]
        for place in range(1, len(ids)):
            own = {"logprob": log_likelihood(ids, place), "rank": 4, "decoded_token": "a"}
            entries.append({str(ids[place]): own})
            if body["prompt_logprobs"] > 0:
                entries[-1]["1"] = {"logprob": -0.01, "rank": 1, "decoded_token": "b"}
    choice = {
        "logprobs": None, "prompt_logprobs": entries, "token_ids": [9],
        "prompt_token_ids": ids if body.get("return_token_ids") else None,
    }  # fmt: skip
    return wrap(body, wrong(choice) if wrong else choice)


def echoing(body: dict[str, Any], spare: int = 1) -> Any:
    """What OpenAI documented for ``echo``; ``spare`` generated tokens behind the prompt."""
    ids = body["prompt"]
    logprobs = None
    if body.get("echo") and body.get("logprobs") is not None:
        values = [None, *(log_likelihood(ids, place) for place in range(1, len(ids))), *[-0.5] * spare]
        logprobs = {"tokens": ["t"] * len(values), "token_logprobs": values, "top_logprobs": [], "text_offset": []}
    return wrap(body, {"logprobs": logprobs})


def deaf(body: dict[str, Any]) -> Any:
    """llama.cpp's server: knows ``logprobs``, ignores ``echo`` without saying so."""
    logprobs = {"tokens": ["t"], "token_logprobs": [-0.5], "top_logprobs": [], "text_offset": [0]}
    return wrap(body, {"logprobs": logprobs if body.get("logprobs") else None})


TEXTS = [
    ScoreRequest([1, 7, 8, 9]),
    ScoreRequest([1, 7, 8, 9], [True, False, True, True]),
    ScoreRequest([1]),
    ScoreRequest([4, 5] * 100),
    ScoreRequest([1, 2, 3], [True, False, False]),
]


@pytest.fixture
def score(engine_settings: Callable[..., EngineSettings]) -> Callable[..., list[Score]]:
    def work(server: Server, requests: list[ScoreRequest], kind: str = "vllm", **generation: Any) -> list[Score]:
        own = OpenAIConfig([server.url], kind, timeout=60, patience=60, max_backoff=0.05)
        settings = engine_settings("openai", own, tokenizer=generation.pop("tokenizer", ""), **generation)
        return score_all(open_engine(settings), requests)

    return work


@pytest.fixture
def named(tokenizer_folder: Any) -> dict[str, Any]:
    return {"model": "tiny", "tokenizer": str(tokenizer_folder)}


def test_vllm(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    with Server(lambda n, body: vllm(body)) as server:
        assert score(server, TEXTS, **named) == [expected(text) for text in TEXTS]
    # A text of which nothing counts is not sent; the first server check is one request more.
    assert len(server.bodies) == 3 + 1
    assert {body["max_tokens"] for body in server.bodies} == {1}
    assert sum("prompt_logprobs" in body for body in server.bodies) == 3


@pytest.mark.parametrize("spare", [0, 1])
def test_echo(score: Callable[..., list[Score]], named: dict[str, Any], spare: int) -> None:
    with Server(lambda n, body: echoing(body, spare)) as server:
        assert score(server, TEXTS, "openai-compatible", **named) == [expected(text) for text in TEXTS]


def test_failures_are_retried(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    faults = [Faults.status(503), Faults.garbage, Faults.disconnect, Faults.no_choices]
    with Server(lambda n, body: faults[n // 2 % 4](body) if n % 2 else vllm(body)) as server:
        assert score(server, TEXTS, **named) == [expected(text) for text in TEXTS]


def test_minus_infinity_as_vllm_writes_it(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    def impossible(choice: dict[str, Any]) -> dict[str, Any]:
        choice["prompt_logprobs"][1]["7"]["logprob"] = -9999.0
        return choice

    with Server(lambda n, body: vllm(body, impossible if "prompt_logprobs" in body else None)) as server:
        assert score(server, TEXTS[:1], **named) == [Score(float("-inf"), 3)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda choice: choice | {"prompt_logprobs": None}, "expected prompt_logprobs for the 4 tokens .* nothing"),
        (lambda choice: choice | {"prompt_logprobs": [None]}, "for the 4 tokens of the prompt, found 1 entries"),
        (
            lambda choice: choice | {"prompt_logprobs": [None, *[{"600": {"logprob": -1}}] * 3]},
            "prompt_logprobs are of other tokens than the prompt's: KeyError",
        ),
    ],
    ids=["missing", "too few", "other tokens"],
)
def test_answers_without_scores_end_the_run_at_once(
    score: Callable[..., list[Score]], named: dict[str, Any], wrong: Any, message: str
) -> None:
    with (
        Server(lambda n, body: vllm(body, wrong)) as server,
        pytest.raises(EngineError, match=rf"{server.url}: does not score: .*{message}.*score\.openai\.server"),
    ):
        score(server, TEXTS[:1], **named)
    assert len(server.bodies) == 2


def test_a_server_that_ignores_echo_is_noticed(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    with (
        Server(lambda n, body: deaf(body)) as server,
        pytest.raises(EngineError, match=r"does not score: expected logprobs\.token_logprobs for the 4 .* 1 entries"),
    ):
        score(server, TEXTS[:1], "openai-compatible", **named)


@pytest.mark.parametrize("kind", ["trtllm-serve", "transformers-serve"])
def test_kinds_of_servers_that_do_not_score(
    score: Callable[..., list[Score]], named: dict[str, Any], kind: str
) -> None:
    with (
        Server(lambda n, body: vllm(body)) as server,
        pytest.raises(
            RecipeError, match=rf"score\.openai\.server: {kind} does not return log-.*vllm, openai-comp.* do"
        ),
    ):
        score(server, TEXTS[:1], kind, **named)
    assert server.bodies == []


def test_the_longest_text_leaves_room_for_a_token(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    with Server(lambda n, body: vllm(body)) as server:
        assert score(server, [ScoreRequest([1, *[5] * 254])], **named)[0].tokens == 254
        with pytest.raises(InputError, match=r"256 tokens .* 255 that openai can score.*context_length = 256"):
            score(server, [ScoreRequest([1, *[5] * 255])], **named)


def test_a_doubled_bos_is_noticed(score: Callable[..., list[Score]], named: dict[str, Any]) -> None:
    def doubled(body: dict[str, Any]) -> Any:
        answer = vllm(body)
        answer["usage"]["prompt_tokens"] += 1
        return answer

    with (
        Server(lambda n, body: doubled(body)) as server,
        pytest.raises(EngineError, match=r"adds a second BOS.*score\.openai\.server"),
    ):
        score(server, TEXTS[:1], **named)
