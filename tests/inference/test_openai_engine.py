from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_ipt.errors import NoPairsError, RecipeError, StageError
from megatron_ipt.inference.engine import EngineError
from megatron_ipt.inference.openai.answers import read_completion
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.http_server import Faults, Server, completion, good

pytest.importorskip("openai")

from openai.types import CompletionUsage

FAULTS = {
    "500": Faults.status(500),
    "503": Faults.status(503),
    "429": Faults.status(429, retry_after="0.02"),
    "garbage": Faults.garbage,
    "no choices": Faults.no_choices,
    "disconnect": Faults.disconnect,
    "half an answer": Faults.half_an_answer,
    "hang": Faults.hang,
}


@pytest.fixture
def configure_openai(
    configure: Callable[..., SynthesisConfig], tokenizer_folder: Path
) -> Callable[..., SynthesisConfig]:
    def build(*servers: Server | str, **overrides: Any) -> SynthesisConfig:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        settings = {
            "engine": "openai",
            "generation.model": "tiny",
            "generation.tokenizer": str(tokenizer_folder),
            "openai.server": "openai-compatible",
            "openai.base_urls": json.dumps(urls),
            "openai.timeout": 60,
            "openai.patience": 60,
            "openai.max_backoff": 0.05,
        }
        return configure(**(settings | overrides))

    return build


def run(config: SynthesisConfig, context: StageContext, texts: int = 6) -> tuple[dict[str, Any], list[Any]]:
    if not context.inputs[DOCUMENTS].exists():
        write_corpus(context.inputs[DOCUMENTS], [texts_of(texts)])
    counts = stage.run(config, context)
    return counts, list(stage.chains_in(context.directory))


def rejects(context: StageContext) -> list[dict[str, Any]]:
    path = context.directory / "rejects" / "shard-00000.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sends_every_field_it_relies_on(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, tokenizer_folder: Path
) -> None:
    with Server(lambda n, body: completion(body, text="", token_ids=[5, 2])) as server, pytest.raises(NoPairsError):
        run(configure_openai(server, **{"openai.server": "vllm"}), context, texts=1)
    probe, body = server.bodies
    assert probe == body | {"max_tokens": 1}
    prompt = body.pop("prompt")
    seed = body.pop("seed")
    assert body == {
        "model": "tiny", "max_tokens": 128, "temperature": 0.0, "top_p": 1.0, "add_special_tokens": False,
        "return_token_ids": True,
    }  # fmt: skip
    assert prompt[0] == 1 and 1 not in prompt[1:]
    assert 0 <= seed < 1 << 31


@pytest.mark.parametrize("server_kind", ["vllm", "trtllm-serve"])
def test_returned_ids_are_repeated_exactly(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, tokenizer: Any, server_kind: str
) -> None:
    text = "<QUE> Who? <ANS> Ann. </END>"
    # Ids that no tokenizer would choose for this text: one byte at a time.
    ids = [tokenizer.encode([character])[0][0] for character in text]
    shown = "" if server_kind == "trtllm-serve" else text
    with Server(lambda n, body: completion(body, text=shown, token_ids=[*ids, 2])) as server:
        _, chains = run(configure_openai(server, **{"openai.server": server_kind}), context, texts=2)
    _, first, second = (body["prompt"] for body in server.bodies)
    assert second[: len(first) + len(ids) + 2] == [*first, *ids, 2, 1]
    assert [len(chain.examples) for chain in chains] == [2]
    assert chains[0].examples[0].pairs[0].answer == "Ann."


@pytest.mark.parametrize("fault", FAULTS)
def test_every_third_request_fails_and_nothing_is_lost(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, fault: str
) -> None:
    # Only a server that hangs is waited for, and a good answer that takes longer is asked for again.
    timeout = {"openai.timeout": 0.5} if fault == "hang" else {}
    with Server(lambda n, body: FAULTS[fault](body) if n % 3 == 0 else good(body)) as server:
        counts, chains = run(configure_openai(server, **timeout), context)
    assert [example.id for chain in chains for example in chain.examples] == [f"d{n}" for n in range(6)]
    assert counts["pairs"] == 12
    assert len(server.bodies) >= 9


def test_empty_answers_are_counted(configure_openai: Callable[..., SynthesisConfig], context: StageContext) -> None:
    with (
        Server(lambda n, body: Faults.empty_text(body)) as server,
        pytest.raises(NoPairsError, match=r"none of 6 texts got a pair; dropped: empty answer of the engine \(6\)"),
    ):
        run(configure_openai(server), context)
    assert [len(chain.examples) for chain in stage.chains_in(context.directory)] == [1] * 6


@pytest.mark.parametrize("fault", ["500", "garbage", "disconnect"])
def test_a_dead_server_ends_the_stage_with_its_address(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, fault: str
) -> None:
    with (
        Server(lambda n, body: FAULTS[fault](body)) as server,
        pytest.raises(EngineError, match=rf"{server.url}: .*openai\.patience.*rerun"),
    ):
        run(configure_openai(server, **{"openai.patience": 0.3}), context)


def test_a_restarted_server_is_waited_for(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    with Server(lambda n, body: good(body)) as server:
        port = server.port

    result: list[Any] = []
    config = configure_openai(f"http://127.0.0.1:{port}/v1", **{"openai.patience": 120})
    worker = threading.Thread(target=lambda: result.append(run(config, context)))
    worker.start()
    time.sleep(0.5)
    with Server(lambda n, body: good(body), port=port):
        worker.join(120)
    assert result[0][0]["pairs"] == 12


def test_wrong_model_is_named(configure_openai: Callable[..., SynthesisConfig], context: StageContext) -> None:
    with (
        Server(lambda n, body: good(body), models=("large", "small")) as server,
        pytest.raises(EngineError, match=r"serves large, small, not tiny.*synthesis\.generation\.model"),
    ):
        run(configure_openai(server), context)
    with (
        Server(lambda n, body: Faults.status(404)(body)) as server,
        pytest.raises(EngineError, match=r"status 404: injected 404.*synthesis\.generation\.model"),
    ):
        run(configure_openai(server), context)


def test_doubled_bos_is_noticed_on_the_first_answer(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    with (
        Server(lambda n, body: completion(body, extra_tokens=1)) as server,
        pytest.raises(EngineError, match="adds a second BOS"),
    ):
        run(configure_openai(server), context, texts=30)
    assert len(server.bodies) == 1


def test_another_tokenizer_is_noticed(configure_openai: Callable[..., SynthesisConfig], context: StageContext) -> None:
    with (
        Server(lambda n, body: completion(body, extra_tokens=7)) as server,
        pytest.raises(EngineError, match="uses another tokenizer"),
    ):
        run(configure_openai(server), context)


def test_a_poisonous_text_is_refused_alone(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, tokenizer: Any
) -> None:
    def answer(number: int, body: dict[str, Any]) -> Any:
        if "Text3 " in tokenizer.decode(body["prompt"]):
            return Faults.status(400 if number % 2 else 500)(body)
        return good(body)

    with Server(answer) as server:
        config = configure_openai(
            server, **{"openai.patience": 0.3, "generation.max_refused_share": 0.2, "chain_length": 1}
        )
        counts, chains = run(config, context)
    assert counts["refused_texts"] == 1
    assert [len(chain.examples[0].pairs) for chain in chains] == [2, 2, 2, 0, 2, 2]
    assert rejects(context)[0]["source"] == "d3"


def test_many_refused_texts_end_the_stage_every_time(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    with Server(lambda n, body: good(body) if n <= 1 else Faults.status(400)(body)) as server:
        config = configure_openai(server)
        for _ in range(2):
            with pytest.raises(StageError, match=r"refused 5 of 6 texts.*max_refused_share"):
                run(config, context)
        counts, _ = run(configure_openai(server, **{"generation.max_refused_share": 1}), context)
    assert counts["refused_texts"] == 5


def test_a_chain_stays_on_its_server(configure_openai: Callable[..., SynthesisConfig], context: StageContext) -> None:
    async def answer(body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.01)
        return good(body)

    with Server(lambda n, body: answer(body)) as left, Server(lambda n, body: answer(body)) as right:
        config = configure_openai(left, right, chain_length=3)
        counts, _ = run(config, context, texts=24)
    assert counts["chains"] == 8
    for server in (left, right):
        prompts = sorted((body["prompt"] for body in server.bodies), key=len)
        assert len(prompts) >= 6
        starts = Counter(tuple(prompt[:12]) for prompt in prompts)
        assert sorted(starts.values()) == [*[3] * (len(starts) - 1), 4]  # one was probed with


def test_only_the_first_request_goes_alone(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    came: list[int] = []
    seen_by_first: list[int] = []
    all_there = asyncio.Event()

    async def answer(number: int, body: dict[str, Any]) -> Any:
        came.append(number)
        if number == 0:
            # Time for others to come, were they sent.
            await asyncio.sleep(0.2)
            seen_by_first.append(len(came))
            return good(body)
        # No answer before all twelve are in flight: an engine that sends them one by one would wait forever.
        if len(came) == 13:
            all_there.set()
        await all_there.wait()
        return good(body)

    with Server(answer) as server:
        run(configure_openai(server, chain_length=1), context, texts=12)
    assert seen_by_first == [1] and len(came) == 13


def test_chains_leave_a_dead_server(configure_openai: Callable[..., SynthesisConfig], context: StageContext) -> None:
    with Server(lambda n, body: good(body)) as alive:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        counts, _ = run(configure_openai(dead, alive), context, texts=20)
    assert counts["pairs"] == 40


def test_settings_that_a_server_ignores_are_refused(configure_openai: Callable[..., SynthesisConfig]) -> None:
    with pytest.raises(RecipeError, match="transformers-serve ignores it"):
        configure_openai("http://x/v1", **{"openai.server": "transformers-serve", "generation.temperature": 0.5})
    with pytest.raises(RecipeError, match="is not an http address"):
        configure_openai("localhost:8000")


@pytest.fixture(scope="module")
def transformers_serve(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real ``transformers serve`` on loopback; yields its base URL."""
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model_folder), "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        )
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.slow
def test_real_transformers_serve(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, transformers_serve: str, model_folder: Path
) -> None:
    from tests.synthesis.tiny_model import PAIR

    overrides = {
        "openai.server": "transformers-serve", "openai.timeout": 60, "generation.model": str(model_folder),
        "generation.tokenizer": str(model_folder), "chain_length": 3,
    }  # fmt: skip
    counts, chains = run(configure_openai(transformers_serve, **overrides), context, texts=7)
    assert [len(chain.examples) for chain in chains] == [3, 3, 1]
    pairs = [pair for chain in chains for example in chain.examples for pair in example.pairs]
    assert [(pair.question, pair.answer) for pair in pairs] == [(PAIR.question, PAIR.answer)] * 7
    assert counts["dropped"] == {}


@pytest.mark.slow
def test_real_server_of_another_model(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, transformers_serve: str
) -> None:
    config = configure_openai(transformers_serve, **{"openai.server": "transformers-serve", "openai.timeout": 60})
    with pytest.raises(EngineError, match=r"pinned to .*synthesis\.generation\.model \(now tiny\)"):
        run(config, context)


@pytest.mark.slow
def test_real_server_taken_for_another_kind(
    configure_openai: Callable[..., SynthesisConfig], context: StageContext, transformers_serve: str, model_folder: Path
) -> None:
    overrides = {"openai.server": "openai-compatible", "openai.timeout": 60, "generation.model": str(model_folder)}
    with pytest.raises(EngineError, match=r"synthesis\.openai\.server \(now openai-compatible\)|serves "):
        run(configure_openai(transformers_serve, **overrides), context)


def test_reads_what_the_server_bills() -> None:
    usage = CompletionUsage.model_validate(
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 6},
        }
    )
    choice = SimpleNamespace(text="river", finish_reason="stop")
    answer = read_completion(SimpleNamespace(choices=[choice], usage=usage), "")
    assert (answer.prompt_tokens, answer.generated_tokens, answer.cached_tokens) == (9, 4, 6)
    silent = SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=9, completion_tokens=None))
    answer = read_completion(silent, "")
    assert (answer.generated_tokens, answer.cached_tokens) == (None, 0)
