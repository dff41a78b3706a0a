"""Against a stand-in that refuses what the real API does not have; nothing here has run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import EngineError
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from tests.inference import strict_tensorrt_llm as strict
from tests.synthesis.conftest import texts_of, write_corpus

ANSWER = "<QUE> Who? <ANS> Ann. </END>"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, configure: Callable[..., SynthesisConfig], context: StageContext, tokenizer: Any
) -> Callable[..., dict[str, Any]]:
    strict.install(monkeypatch)
    generated = [*tokenizer.encode([ANSWER])[0], tokenizer.eos_id]
    strict.LLM.answer = staticmethod(lambda ids, sampling: (generated, "stop"))

    def work(texts: int = 6, **overrides: Any) -> dict[str, Any]:
        write_corpus(context.inputs[DOCUMENTS], [texts_of(texts)])
        return stage.run(configure(**({"engine": "tensorrt_llm"} | overrides)), context)

    return work


def test_makes_pairs_and_shuts_down(run: Callable[..., dict[str, Any]]) -> None:
    counts = run(texts=40)
    (llm,) = strict.LLM.instances
    assert counts["pairs"] == 40 and counts["chains"] == 20
    assert llm.is_shut_down
    assert llm.most_in_flight == 20


def test_arguments(run: Callable[..., dict[str, Any]]) -> None:
    run(**{"tensorrt_llm.kv_cache_dtype": "fp8", "tensorrt_llm.host_cache_gib": 2, "tensorrt_llm.max_batch_size": 64})
    arguments = strict.LLM.instances[0].arguments
    cache = arguments["kv_cache_config"]
    assert (cache.enable_block_reuse, cache.dtype, cache.host_cache_size) == (True, "fp8", 2 << 30)
    assert arguments["enable_chunked_prefill"] and arguments["skip_tokenizer_init"]
    assert arguments["max_seq_len"] == 1024 and arguments["max_batch_size"] == 64


def test_ids_go_in_unchanged(run: Callable[..., dict[str, Any]], tokenizer: Any) -> None:
    prompts: list[list[int]] = []
    generated = tokenizer.encode([ANSWER])[0]

    def answer(ids: list[int], sampling: Any) -> tuple[list[int], str]:
        prompts.append(ids)
        assert (sampling.temperature, sampling.max_tokens, sampling.end_id) == (0.0, 128, tokenizer.eos_id)
        assert not sampling.detokenize and not sampling.add_special_tokens
        return [*generated, tokenizer.eos_id], "stop"

    strict.LLM.answer = staticmethod(answer)
    run(texts=2)
    first, second = prompts
    assert first[0] == tokenizer.bos_id and first[1] != tokenizer.bos_id
    assert second[: len(first) + len(generated) + 2] == [*first, *generated, tokenizer.eos_id, tokenizer.bos_id]


def test_an_answer_cut_off_loses_its_last_pair(run: Callable[..., dict[str, Any]], tokenizer: Any) -> None:
    ids = tokenizer.encode([f"{ANSWER}\n\n<QUE> And wh"])[0]
    strict.LLM.answer = staticmethod(lambda prompt, sampling: (ids, "length"))
    counts = run(texts=3)
    assert counts["pairs"] == 3
    assert counts["dropped"] == {"cut off by the token limit": 3}


def test_timeouts_are_tried_again_then_refused(run: Callable[..., dict[str, Any]]) -> None:
    calls: list[int] = []

    def answer(ids: list[int], sampling: Any) -> tuple[list[int], str]:
        calls.append(1)
        return [], "timeout"

    strict.LLM.answer = staticmethod(answer)
    counts = run(texts=1, **{"generation.max_refused_share": 1})
    assert len(calls) == 3 and counts["refused_texts"] == 1


def test_an_engine_failure_ends_the_stage(run: Callable[..., dict[str, Any]]) -> None:
    def answer(ids: list[int], sampling: Any) -> tuple[list[int], str]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    strict.LLM.answer = staticmethod(answer)
    with pytest.raises(EngineError, match=r"illegal memory access.*Rerun"):
        run()
    assert strict.LLM.instances[0].is_shut_down


def test_without_the_package_the_message_says_how_to_get_it(
    configure: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
    with pytest.raises(RecipeError, match=r"synthesis\.engine: tensorrt_llm needs the package tensorrt_llm"):
        stage.run(configure(engine="tensorrt_llm"), context)


def test_the_stand_in_is_strict() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        strict.LLM("m", backend="pytorch")
    with pytest.raises(TypeError):
        strict.SamplingParams(max_new_tokens=3)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        strict.SamplingParams().n = 2
    with pytest.raises(RuntimeError):
        strict.SamplingParams(end_id=2, stop=["</END>"])
