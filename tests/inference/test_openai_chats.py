"""Chats, to which the server applies the template: without a tokenizer of ours, through the whole stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig
from megatron_ipt.inference.engine import Completion, EngineError, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import generate_all, score_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import ByteTokenizer, open_prompt_tokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.chat.style import ChatStyle
from megatron_ipt.synthesis.from_text.prompted.style import StyleSetup
from megatron_ipt.synthesis.pairs import Example
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.http_server import Faults, Server, chat
from tests.synthesis.scripted import answer_about

pytest.importorskip("openai")

MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"})
PLAIN = Sampling(9)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "minLength": 1}}}


def answer(body: dict[str, Any]) -> Any:
    """A proper answer to any built-in task."""
    return chat(body, answer_about(body["messages"][-1]["content"] + "\n\n"))


@pytest.fixture
def configure_chats(configure: Callable[..., SynthesisConfig]) -> Callable[..., SynthesisConfig]:
    """Chats without tokenizer or template on this machine."""

    def build(server: Server, **overrides: Any) -> SynthesisConfig:
        settings = {
            "engine": "openai", "prompt": "chat", "generation.model": "tiny", "generation.context_length": 4096,
            "generation.temperature": 0.7, "openai.server": "openai-chat",
            "openai.base_urls": json.dumps([server.url]), "openai.patience": 5, "openai.max_backoff": 0.05,
        }  # fmt: skip
        return configure(**(settings | overrides))

    return build


def run(config: SynthesisConfig, context: StageContext, texts: int = 12) -> dict[str, Any]:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(texts)])
    return stage.run(config, context)


def one(
    answer: Callable[[dict[str, Any]], Any],
    sampling: Sampling = PLAIN,
    prompt: Prompt | None = None,
    models: tuple[Any, ...] = ("tiny",),
    **own: Any,
) -> tuple[Completion, list[dict[str, Any]]]:
    """The answer to one chat, and the bodies that were sent."""
    with Server(lambda n, body: answer(body), models) as server:
        config = OpenAIConfig([server.url], "openai-chat", patience=0.3, max_backoff=0.02, **own)
        settings = EngineSettings("openai", GenerationConfig(model="tiny", context_length=256), config, prefix="score")
        prompt = prompt or Prompt(list(b"Who?"), "Who?", MESSAGES, {"enable_thinking": False})
        (done,) = generate_all(open_engine(settings), [Request(prompt, sampling, seed=3)])
        return done, server.bodies


def test_makes_pairs_without_tokenizer_or_template(
    configure_chats: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    with Server(lambda n, body: answer(body)) as server:
        config = configure_chats(server)
        stage.check(config)
        assert stage.fingerprints(config) == []
        counts = run(config, context)
    assert server.paths == {"/v1/chat/completions"}
    assert counts["texts_with_pairs"] == 12 and counts["dropped"] == {}
    assert counts["generated_tokens"] == 12 * 9
    roles = {tuple(message["role"] for message in body["messages"]) for body in server.bodies}
    assert roles == {("system", "user")}
    # As the server counted them, not as they were estimated here.
    sent = sum(20 + sum(len(m["content"].split()) for m in body["messages"]) for body in server.bodies[1:])
    assert counts["prompt_tokens"] == sent


def test_a_run_resumes_and_notices_other_settings(
    configure_chats: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    dead = Faults.status(404)
    with (
        Server(lambda n, body: dead(body) if n > 7 else answer(body)) as server,
        pytest.raises(EngineError, match="injected 404"),
    ):
        run(configure_chats(server, **{"generation.window": 1}), context)
    with Server(lambda n, body: answer(body)) as server:
        with pytest.raises(StageError, match="other documents or settings"):
            stage.run(configure_chats(server, **{"generation.temperature": 0.2}), context)
        counts = stage.run(configure_chats(server), context)
    assert counts["texts_with_pairs"] == 12
    # Three chains of two texts were finished and are not asked about again; the server was probed.
    assert len(server.bodies) == 1 + 12 - 6


def test_a_tokenizer_only_counts(
    configure_chats: Callable[..., SynthesisConfig], context: StageContext, tokenizer_folder: Path
) -> None:
    """It has no chat template, which chats do not need."""
    with Server(lambda n, body: answer(body)) as server:
        config = configure_chats(server, **{"generation.tokenizer": tokenizer_folder})
        assert [Path(entry["path"]).name for entry in stage.fingerprints(config)] == ["tokenizer.json"]
        with pytest.raises(EngineError, match=r"the messages alone have \d+: it truncates prompts"):
            run(config, context, 2)

    def right(body: dict[str, Any]) -> Any:
        done = answer(body)
        contents = [message["content"] for message in body["messages"]]
        done["usage"]["prompt_tokens"] = 30 + sum(map(len, open_prompt_tokenizer(tokenizer_folder).encode(contents)))
        return done

    with Server(lambda n, body: right(body)) as server:
        config = configure_chats(server, **{"generation.tokenizer": tokenizer_folder})
        assert stage.run(config, context)["texts_with_pairs"] == 2


@pytest.mark.parametrize("text", ["The river rises. " * 999, "河水從北方的山丘流下。" * 999, "😀" * 9999, "a1!" * 9999])
def test_an_estimate_never_exceeds_the_context(text: str) -> None:
    generation = GenerationConfig(model="m", context_length=4096, max_new_tokens=400)
    style = ChatStyle(StyleSetup(ByteTokenizer(), generation, 7, chats=True))
    text = text.encode()[: style.text_limit].decode(errors="ignore")
    assert style.text_limit - 3 <= style.count(text) <= style.text_limit
    (prompt,) = map(style.begin, style.ask([Example("d0", text)]))
    assert style.fits(prompt)
    # No vocabulary has more tokens for a text than the text has bytes.
    assert sum(len(message["content"].encode()) for message in prompt.messages) <= 4096 - 400 - 96


def test_control_tokens_in_a_text_are_broken_up() -> None:
    style = ChatStyle(StyleSetup(ByteTokenizer(), GenerationConfig(model="m"), 7, chats=True))
    text = "a <|im_end|> b </s> c [/INST] d <end_of_turn> e <|start_header_id|> f <p> g <|not one"
    message = style.begin(style.ask([Example("d0", text)])[0]).messages[-1]["content"]
    assert "a < |im_end|> b < /s> c [ /INST] d < end_of_turn> e < |start_header_id|> f <p> g <|not one" in message


def test_the_style_of_completions_is_refused_by_name(configure_chats: Callable[..., SynthesisConfig]) -> None:
    with Server(lambda n, body: chat(body)) as server:
        with pytest.raises(RecipeError, match=r"prompt: synthesizer continues a raw prompt, .*openai-chat only"):
            configure_chats(server, prompt="synthesizer")
        settings = EngineSettings(
            "openai", GenerationConfig(model="tiny"), OpenAIConfig([server.url], "openai-chat"), prefix="score"
        )
        with pytest.raises(RecipeError, match=r"score\.openai\.server: openai-chat .*does not score; vllm"):
            score_all(open_engine(settings), [ScoreRequest([1, 2])])
        with pytest.raises(RecipeError, match="sends chats, and this prompt is none"):
            generate_all(open_engine(settings), [Request(Prompt([1], "x"), Sampling(9))])


def test_every_field_that_is_sent() -> None:
    sampling = Sampling(9, temperature=0.7, top_p=0.9, stop=("\n\n",), json_schema=SCHEMA)
    _, (_, body) = one(chat, sampling, extra={"frequency_penalty": 0.3})
    assert body == {
        "model": "tiny", "messages": list(MESSAGES), "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "seed": 3,
        "stop": ["\n\n"], "frequency_penalty": 0.3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer", "strict": True,
                "schema": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize("owner", ["vllm", "llamacpp", "someone"])
def test_template_variables_go_to_servers_that_take_them(owner: str) -> None:
    _, (_, body) = one(chat, models=({"id": "tiny", "owned_by": owner},))
    assert body.get("chat_template_kwargs") == (None if owner == "someone" else {"enable_thinking": False})


def test_a_null_takes_a_field_away() -> None:
    """Reasoning models of OpenAI take neither."""
    extra = {"max_tokens": None, "temperature": None, "max_completion_tokens": 9}
    _, (_, body) = one(chat, extra=extra)
    assert not body.keys() & {"max_tokens", "temperature"} and body["max_completion_tokens"] == 9
    assert list(OpenAIConfig(extra=extra).problems()) == []
    ((key, _),) = OpenAIConfig(extra={"messages": None, "stop": None}).problems()
    assert key == "extra.stop"


def test_a_schema_that_the_server_refuses_has_a_way_out() -> None:
    def answer(body: dict[str, Any]) -> Any:
        return Faults.status(400)(body) if "response_format" in body else chat(body)

    sampling = Sampling(9, json_schema=SCHEMA)
    with pytest.raises(EngineError, match=r"status 400: injected 400.*set score\.openai\.json_schema=false"):
        one(answer, sampling)
    done, _ = one(answer, sampling, json_schema=False)
    assert done.finished


def test_a_template_without_system_messages() -> None:
    def answer(body: dict[str, Any]) -> Any:
        return Faults.status(400)(body) if body["messages"][0]["role"] == "system" else chat(body)

    _, bodies = one(answer)
    merged = [{"role": "user", "content": "Be brief.\n\nWho?"}]
    assert [body["messages"] for body in bodies] == [list(MESSAGES), merged, merged]


def test_a_rejected_first_text_is_refused_alone() -> None:
    """As when a prompt exceeds the context, or texts that were refused are asked about again."""

    def answer(body: dict[str, Any]) -> Any:
        return Faults.status(400)(body) if "Who?" in body["messages"][-1]["content"] else chat(body)

    with pytest.raises(RequestRefused, match="status 400: injected 400"):
        one(answer)


def test_an_answer_that_was_cut_off_before_it_began() -> None:
    done, _ = one(lambda body: chat(body, None, finish_reason="length"))
    assert (done.text, done.finished, done.generated_tokens) == ("", False, 9)


def test_withheld_answers_are_refused_alone() -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "I am\x1b[31m sorry"}
    filtered = (400, json.dumps({"error": {"message": "no", "code": "content_filter"}}).encode(), {})
    for answer, said in (
        (lambda body: chat(body, finish_reason="content_filter"), "content filter"),
        (lambda body: chat(body, message=refusal), r"refused by the model: I am \[31m sorry"),
        (lambda body: filtered, "status 400: no"),
    ):
        with pytest.raises(RequestRefused, match=said):
            one(answer)


def test_without_usage_tokens_are_estimated_and_this_is_said_once(
    configure_chats: Callable[..., SynthesisConfig], context: StageContext, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(body: dict[str, Any]) -> Any:
        done = answer(body)
        del done["usage"]
        return done

    with Server(lambda n, body: silent(body)) as server:
        counts = run(configure_chats(server), context)
    assert counts["texts_with_pairs"] == 12 and counts["prompt_tokens"] > 0
    assert [message for message in caplog.messages if "sends no usage" in message] == [
        f"{server.url}: sends no usage with its answers; tokens are estimated"
    ]
