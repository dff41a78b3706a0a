"""Servers that do not keep to what they were asked: named errors or counted rejects, never damaged output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig
from megatron_ipt.inference.engine import Completion, EngineError, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import generate_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.chat.answers import pairs_of_records
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.http_server import GOOD_TEXT, Faults, Server, completion

pytest.importorskip("openai")

IDS = [1, 5, 6]


@pytest.fixture
def ask(tokenizer_folder: Path) -> Callable[..., list[Completion]]:
    """Completions of requests to a server that answers with ``answer(number, body)``."""

    def work(
        answer: Callable[[int, dict[str, Any]], Any],
        *prompts: list[int],
        kind: str = "vllm",
        sampling: Sampling | None = None,
        models: tuple[Any, ...] = ("tiny",),
    ) -> list[Completion]:
        with Server(answer, models) as server:
            own = OpenAIConfig([server.url], kind, patience=0.5, max_backoff=0.02)
            generation = GenerationConfig("tiny", str(tokenizer_folder), context_length=256)
            settings = EngineSettings("openai", generation, own, prefix="score")
            requests = [Request(Prompt(ids, "a b"), sampling or Sampling(99)) for ids in prompts or [IDS]]
            return generate_all(open_engine(settings), requests, window=1)

    return work


def test_text_after_a_stop_string_is_cut_off(ask: Callable[..., list[Completion]], tokenizer: Any) -> None:
    """By a server that ignores ``stop``, with and without ids."""
    sampling = Sampling(99, stop=(" END", "\n\n"))
    ids = tokenizer.encode(["the river END and on\n\nand on"])[0]
    for answer in ({"text": "the river END and on\n\nand on"}, {"text": "", "token_ids": ids}):
        (done,) = ask(lambda n, body, answer=answer: completion(body, **answer), sampling=sampling)
        assert (done.text, done.finished, tokenizer.decode(done.ids)) == ("the river", True, "the river")


def test_a_server_that_reads_ids_as_something_else(ask: Callable[..., list[Completion]]) -> None:
    with pytest.raises(EngineError, match=r"counts 9 prompt tokens, we count 3: it uses another tokenizer than .*json"):
        ask(lambda n, body: completion(body, extra_tokens=6))


@pytest.mark.parametrize("kind", ["vllm", "openai-compatible"])
def test_an_answer_to_another_request_is_not_taken(ask: Callable[..., list[Completion]], kind: str) -> None:
    """The second request gets an answer to the first, once: seen by the ids of its prompt, or by their number."""
    others = {"vllm": [1, 5, 7], "openai-compatible": [1, 5, 6, 7]}[kind]

    def answer(number: int, body: dict[str, Any]) -> Any:
        prompt = IDS if number == 2 else body["prompt"]
        return completion(body | {"prompt": prompt}, text=f"answer {number}", prompt_token_ids=prompt)

    first, second = ask(answer, IDS, others, kind=kind)
    assert (first.text, second.text) == ("answer 1", "answer 3")


def test_answers_that_are_always_of_other_requests_end_the_run(ask: Callable[..., list[Completion]]) -> None:
    with pytest.raises(EngineError, match="answered another prompt than the one it was sent"):
        ask(lambda n, body: completion(body, prompt_token_ids=[1, 2, 3]))


def test_answers_without_usage_are_an_error_with_the_reason(ask: Callable[..., list[Completion]]) -> None:
    def answer(number: int, body: dict[str, Any]) -> Any:
        done = completion(body)
        del done["usage"]
        return done

    with pytest.raises(EngineError, match=r"sends no usage with its answers.*score\.openai\.server to openai-chat"):
        ask(answer)


@pytest.mark.parametrize(
    ("entry", "limit"),
    [
        ({"id": "tiny", "max_model_len": 128}, "128"),
        ({"id": "tiny", "meta": {"n_ctx": 200, "n_ctx_train": 8192}}, "200"),
        ({"id": "/models/tiny.gguf", "meta": {"n_ctx_train": 128}}, "128"),
        ({"id": "tiny", "max_model_len": 256}, ""),
        ({"id": "tiny", "max_model_len": None, "meta": "none"}, ""),
        ({"id": "tiny"}, ""),
    ],
)
def test_a_context_beyond_that_of_the_server(ask: Callable[..., list[Completion]], entry: Any, limit: str) -> None:
    asked: list[int] = []

    def answer(number: int, body: dict[str, Any]) -> Any:
        asked.append(number)
        return completion(body)

    if not limit:
        assert len(ask(answer, kind="llama.cpp", models=(entry,))) == 1
        return
    with pytest.raises(RecipeError, match=rf"^score\.generation\.context_length: 256 is more than the {limit} tokens"):
        ask(answer, kind="llama.cpp", models=(entry,))
    assert asked == []


def test_a_limit_on_tokens_that_is_ignored_is_refused(ask: Callable[..., list[Completion]]) -> None:
    for answer in ({"text": "a" * 10_000_000}, {"text": "", "token_ids": [5] * 100}):
        with pytest.raises(RequestRefused, match="ignores max_tokens"):
            ask(lambda n, body, answer=answer: completion(body, **answer))


def test_prompts_longer_than_the_context_are_refused_alone(ask: Callable[..., list[Completion]]) -> None:
    def answer(number: int, body: dict[str, Any]) -> Any:
        return Faults.status(400)(body) if len(body["prompt"]) > 9 else completion(body)

    for prompts in ((IDS, [1] * 10), ([1] * 10,)):
        with pytest.raises(RequestRefused, match="status 400: injected 400"):
            ask(answer, *prompts)


def test_control_characters_reach_neither_the_terminal_nor_the_files(
    configure: Callable[..., SynthesisConfig], context: StageContext, tokenizer_folder: Path
) -> None:
    nasty = "\x1b[31m\x00\x9b\ud83d\x07"
    text = f"<QUE> Who{nasty}? <ANS> An{nasty}n. </END>\n<QUE> {nasty} <ANS> x </END> {nasty} unfinished"
    message = json.dumps({"error": {"message": f"no {nasty}"}}).encode()

    def answer(number: int, body: dict[str, Any]) -> Any:
        return (400, message, {}) if number % 4 == 3 else completion(body, text)

    write_corpus(context.inputs[DOCUMENTS], [texts_of(8)])
    with Server(answer) as server:
        config = configure(
            engine="openai", chain_length=1,
            **{
                "generation.model": "tiny", "generation.tokenizer": tokenizer_folder, "generation.window": 1,
                "generation.max_refused_share": 1, "openai.server": "openai-compatible",
                "openai.base_urls": json.dumps([server.url]),
            },
        )  # fmt: skip
        counts = stage.run(config, context)
    assert counts["refused_texts"] == 2 and counts["pairs"] == 12
    for path in (*context.directory.glob("shard-*.jsonl"), *context.directory.glob("rejects/*")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found = json.dumps(record, ensure_ascii=False)
            assert not set("\x1b\x00\x9b\x07\\") & set(found.replace("\\n", "").replace('\\"', ""))
    pair = next(stage.chains_in(context.directory)).examples[0].pairs[0]
    assert (pair.question, pair.answer) == ("Who[31m\ufffd?", "An[31m\ufffdn.")


@pytest.mark.parametrize("parse", [parse_answer, pairs_of_records])
@pytest.mark.parametrize(
    "piece",
    ['{"question": "a', "{", "[", '"', "<QUE> a <ANS> b </END>", "<QUE>", "Question: a\nAnswer: b\n", " ", "\n", "a"],
)
def test_megabytes_are_parsed_in_bounded_time(parse: Callable[..., Any], piece: str) -> None:
    """A megabyte is the longest that is read; the time grows with the length, not with its square."""

    def seconds(characters: int) -> float:
        """Of the fastest of three: other load only adds time."""
        text = piece * (characters // len(piece))
        times = []
        for _ in range(3):
            began = time.process_time()
            parse(text, False)
            times.append(time.process_time() - began)
        return min(times)

    # Four times as long: 4 times the time if it grows with the length, 16 if with its square.
    short, long = max(seconds(250_000), 0.02), seconds(1_000_000)
    assert long < 10 * short


def test_the_good_text_is_good() -> None:
    assert len(parse_answer(GOOD_TEXT)[0]) == 2
