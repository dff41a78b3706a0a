"""What requests to each kind of server hold, setting by setting, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import Completion, EngineError, Prompt, Request
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.openai.profiles import PROFILES
from megatron_ipt.inference.run import generate_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from tests.synthesis.http_server import Faults, Server, completion

pytest.importorskip("openai")

EVERYTHING = Sampling(
    9, temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1, stop_ids=(7, 8), stop=("\n\n",),
    extra={"length_penalty": 2},
)  # fmt: skip


@pytest.fixture
def generate(
    engine_settings: Callable[..., EngineSettings], tokenizer_folder: Any
) -> Callable[..., tuple[list[Completion], list[dict[str, Any]]]]:
    """Completions of requests with these samplings, and the bodies that were sent after the first check."""

    def work(
        kind: str, *samplings: Sampling, more: dict[str, Any] | None = None, **answer: Any
    ) -> tuple[list[Completion], list[dict[str, Any]]]:
        with Server(lambda n, body: completion(body, **answer)) as server:
            own = OpenAIConfig([server.url], kind, timeout=60, patience=60, **(more or {}))
            settings = engine_settings("openai", own, model="tiny", tokenizer=str(tokenizer_folder))
            requests = [Request(Prompt([1, 5, 6], "a b c"), sampling, seed=3) for sampling in samplings]
            done = generate_all(open_engine(settings), requests, window=1)
            return done, server.bodies[1:]

    return work


@pytest.mark.parametrize("kind", ["vllm", "trtllm-serve"])
def test_every_setting_reaches_the_server(generate: Callable[..., Any], kind: str) -> None:
    _, (body,) = generate(kind, EVERYTHING)
    sent = {name: value for name, value in body.items() if name not in PROFILES[kind].extra}
    assert sent == {
        "model": "tiny", "prompt": [1, 5, 6], "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "seed": 3,
        "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "stop_token_ids": [7, 8], "stop": ["\n\n"],
        "length_penalty": 2,
    }  # fmt: skip


def test_each_request_has_its_own(generate: Callable[..., Any]) -> None:
    _, bodies = generate("vllm", Sampling(9), Sampling(5, temperature=0.5), Sampling(9, stop=("x",)))
    assert [(body["max_tokens"], body["temperature"], body.get("stop")) for body in bodies] == [
        (9, 0, None), (5, 0.5, None), (9, 0, ["x"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "sampling", "named"),
    [
        ("openai-compatible", Sampling(9, stop_ids=(7,)), "stop_ids"),
        ("openai-compatible", Sampling(9, 0.5, top_k=5, min_p=0.1), "min_p, top_k"),
        ("openai-compatible", Sampling(9, repetition_penalty=1.2), "repetition_penalty"),
        ("transformers-serve", Sampling(9, 0.5), "temperature"),
        ("transformers-serve", Sampling(9, extra={"best_of": 2}), "best_of"),
    ],
)
def test_what_a_server_does_not_honour_is_refused(
    generate: Callable[..., Any], kind: str, sampling: Sampling, named: str
) -> None:
    with pytest.raises(RecipeError, match=rf"score\.openai\.server: {kind} does not honour {named}$"):
        generate(kind, sampling)


def test_limits_of_sampling_do_not_matter_without_any(generate: Callable[..., Any]) -> None:
    _, (body,) = generate("transformers-serve", Sampling(9, top_p=0.9, top_k=5), extra_tokens=0)
    assert body == {"model": "tiny", "prompt": "a b c", "max_tokens": 9, "temperature": 0}


def test_control_tokens_as_stop_strings_are_refused(generate: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="'</s>' is a control token"):
        generate("vllm", Sampling(9, stop=("</s>",)))


def test_a_stop_string_that_the_server_leaves_in_is_cut_off(generate: Callable[..., Any]) -> None:
    """As transformers serve does; vLLM cuts the text but not the ids."""
    (done,), _ = generate("transformers-serve", Sampling(9, stop=(" END",)), text="the river END")
    assert (done.text, done.finished) == ("the river", True)


def test_ids_behind_a_stop_id_are_cut_off(generate: Callable[..., Any]) -> None:
    (done,), _ = generate("vllm", Sampling(9, stop_ids=(7,)), text="", token_ids=[5, 6, 7])
    assert done.ids == [5, 6] and done.finished


SCHEMA = {"type": "object", "properties": {"pairs": {"type": "array"}}}


def test_a_schema_constrains_where_the_server_can(generate: Callable[..., Any]) -> None:
    sampling = Sampling(9, json_schema=SCHEMA)
    _, (body,) = generate("vllm", sampling)
    assert body["structured_outputs"] == {"json": SCHEMA}
    for kind, more in (("vllm", {"json_schema": False}), ("openai-compatible", {}), ("trtllm-serve", {})):
        _, (body,) = generate(kind, sampling, more=more)
        assert not body.keys() & {"structured_outputs", "response_format", "json_schema"}


def test_a_schema_that_the_server_rejects_is_an_error_with_the_way_out(
    engine_settings: Callable[..., EngineSettings], tokenizer_folder: Any
) -> None:
    with Server(lambda n, body: Faults.status(400)(body)) as server:
        own = OpenAIConfig([server.url], "vllm", timeout=60, patience=60)
        settings = engine_settings("openai", own, model="tiny", tokenizer=str(tokenizer_folder))
        request = Request(Prompt([1, 5, 6], "a b c"), Sampling(9, json_schema=SCHEMA))
        with pytest.raises(EngineError, match=r"injected 400.* set score\.openai\.json_schema=false"):
            generate_all(open_engine(settings), [request], window=1)


def test_further_fields_of_the_recipe_are_sent(generate: Callable[..., Any]) -> None:
    _, (body,) = generate("openai-compatible", Sampling(9), more={"extra": {"frequency_penalty": 0.3}})
    assert body["frequency_penalty"] == 0.3


@pytest.mark.parametrize(
    ("server", "extra", "key", "message"),
    [
        ("vllm", {"temperature": 1}, "extra.temperature", "set generation.temperature"),
        ("vllm", {"stream": True}, "extra.stream", "answers are read whole"),
        ("transformers-serve", {"best_of": 2}, "extra", "rejects fields that it does not know; remove best_of"),
    ],
)
def test_fields_that_may_not_be_set(server: str, extra: dict[str, Any], key: str, message: str) -> None:
    ((found, said),) = OpenAIConfig(server=server, extra=extra).problems()
    assert found == key and message in said


@pytest.mark.parametrize("kind", ["llama.cpp", "llama-cpp-python"])
def test_llama_cpp_has_its_own_names_and_no_defaults_of_its_own(
    generate: Callable[..., Any], tokenizer: Any, kind: str
) -> None:
    """Left alone, it samples from 40 tokens, with min_p 0.05, and one of the two with a penalty of 1.1."""
    sampling = Sampling(9, 0.7, 0.9, top_k=40, min_p=0.05, repetition_penalty=1.2, stop=("\n\n",))
    _, (body,) = generate(kind, sampling)
    expected = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.2, "stop": ["\n\n"]}
    assert {name: body[name] for name in expected} == expected
    assert body["prompt"] == ([1, 5, 6] if kind == "llama.cpp" else "a b c")
    _, (body,) = generate(kind, Sampling(9, 0.7))
    assert (body["top_k"], body["min_p"], body["repeat_penalty"], body["top_p"]) == (0, 0.0, 1.0, 1.0)
    # It ends an answer at every control token that ends a message, but not at words.
    _, (body,) = generate(kind, Sampling(9, stop_ids=(tokenizer.eos_id,)))
    assert "stop_token_ids" not in body
    with pytest.raises(RecipeError, match=rf"{kind} does not honour stop_ids"):
        generate(kind, Sampling(9, stop_ids=(300,)))


def test_llama_cpp_takes_a_schema(generate: Callable[..., Any]) -> None:
    _, (body,) = generate("llama.cpp", Sampling(9, json_schema=SCHEMA))
    assert body["json_schema"] == SCHEMA
    _, (body,) = generate("llama-cpp-python", Sampling(9, json_schema=SCHEMA))
    assert not body.keys() & {"json_schema", "response_format"}
