"""vLLM and llama.cpp's server, the real programs with a real small model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig
from megatron_ipt.inference.engine import Completion, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.openai.profiles import PROFILES
from megatron_ipt.inference.run import generate_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from tests.inference.real_servers import CONTEXT, RealServer, serving
from tests.synthesis.conftest import texts_of, write_corpus

pytest.importorskip("openai")
pytestmark = pytest.mark.server

TEXTS = 4
TASKS = "tasks: {questions: }\n"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "minLength": 1}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["vllm", "llama.cpp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with serving(request.param, tmp_path_factory.mktemp("server") / "log") as real:
        yield real


def settings_of(server: RealServer, kind: str = "", context_length: int = CONTEXT, **own: Any) -> EngineSettings:
    tokenizer = "" if kind == "openai-chat" else str(server.folder)
    generation = GenerationConfig(model=server.model, tokenizer=tokenizer, context_length=context_length)
    return EngineSettings("openai", generation, OpenAIConfig([server.url], kind or server.kind, **own))


def complete(server: RealServer, text: str, sampling: Sampling, **own: Any) -> Completion:
    ids = open_prompt_tokenizer(server.folder).encode([text])[0]
    requests = [Request(Prompt(ids, text), sampling, seed=5)]
    return generate_all(open_engine(settings_of(server, **own)), requests)[0]


def test_usage_and_ids_are_right(server: RealServer) -> None:
    """The first request compares the counts of the prompt's tokens, and the answer those of every other."""
    tokenizer = open_prompt_tokenizer(server.folder)
    done = complete(server, "The capital of France is", Sampling(6))
    assert done.prompt_tokens == len(tokenizer.encode(["The capital of France is"])[0])
    assert (done.generated_tokens, done.finished) == (6, False)
    assert "Paris" in done.text and tokenizer.decode(done.ids) == done.text


def test_every_setting_is_taken(server: RealServer) -> None:
    takes = PROFILES[server.kind].takes
    stop_ids = (open_prompt_tokenizer(server.folder).eos_id,)
    sampling = Sampling(
        40, 0.8, 0.9, top_k=20, min_p=0.02, repetition_penalty=1.1, stop=(" the", "\n"), stop_ids=stop_ids
    )
    assert {"top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed"} <= takes.keys()
    done = complete(server, "Once upon a time", sampling, extra={"presence_penalty": 0.1})
    assert " the" not in done.text and "\n" not in done.text


def test_a_schema_is_enforced(server: RealServer) -> None:
    done = complete(server, "The sky is", Sampling(60, 0.7, json_schema=SCHEMA, repetition_penalty=1.1))
    assert done.text.lstrip().startswith("{") and '"colour"' in done.text
    if done.finished:
        assert json.loads(done.text).keys() == {"colour"}


def test_a_longer_context_than_the_server_has_is_refused(server: RealServer) -> None:
    with pytest.raises(RecipeError, match=rf"generation\.context_length: 65,536 is more than the {CONTEXT:,} tokens"):
        generate_all(open_engine(settings_of(server, context_length=65536)), [Request(Prompt([1], ""), Sampling(1))])


def test_a_prompt_longer_than_the_context_is_refused_alone(server: RealServer) -> None:
    with pytest.raises(RequestRefused, match=r"status 400: .*context"):
        complete(server, "river " * (CONTEXT + 100), Sampling(5))


@pytest.mark.parametrize("chats", [False, True], ids=["ids", "chats"])
def test_the_stage_makes_pairs_or_says_why_not(
    server: RealServer, context: StageContext, configure: Callable[..., SynthesisConfig], chats: bool
) -> None:
    """Token ids rendered here, and chats without a tokenizer of ours, on the same server."""
    tasks = context.directory.with_name("tasks.yaml")
    tasks.write_text(TASKS)
    config = configure(
        engine="openai", prompt=tasks, chain_length=1, give_up_after="null",
        **{
            "generation.model": server.model, "generation.tokenizer": "''" if chats else server.folder,
            "generation.context_length": CONTEXT, "generation.max_new_tokens": 160, "generation.temperature": 0.7,
            "openai.server": "openai-chat" if chats else server.kind, "openai.base_urls": json.dumps([server.url]),
        },
    )  # fmt: skip
    stage.check(config)
    write_corpus(context.inputs[DOCUMENTS], [texts_of(TEXTS)])
    counts = stage.run(config, context)
    examples = [example for chain in stage.chains_in(context.directory) for example in chain.examples]
    assert [example.id for example in examples] == [f"d{number}" for number in range(TEXTS)]
    rejects = context.directory / "rejects" / "shard-00000.jsonl"
    lines = rejects.read_text().splitlines() if rejects.exists() else []
    dropped = {json.loads(line)["source"] for line in lines}
    assert all(example.pairs or example.id in dropped for example in examples)
    assert counts["requests"] == TEXTS and "refused_texts" not in counts
    assert counts["prompt_tokens"] > 100 * TEXTS and 0 < counts["generated_tokens"] <= 160 * TEXTS
    # The schema leaves no room for anything but pairs; some may repeat a question.
    assert counts["texts_with_pairs"] >= 1
    print(f"{server.kind}, chats={chats}: {counts['pairs']} pairs, dropped {counts['dropped']}")
