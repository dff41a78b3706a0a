"""Against a mock that refuses what the real API does not have; nothing here has run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from megatron_ipt.errors import InputError, NoPairsError, RecipeError
from megatron_ipt.inference.engine import EngineError, Prompt, Request
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import generate_all, score_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
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


def test_answers_in_a_loop_are_stopped(run: Callable[..., dict[str, Any]], tokenizer: Any) -> None:
    asked: list[int] = []
    (loop,) = tokenizer.encode([f"{ANSWER}\n\n" * 40])

    def answer(ids: list[int], sampling: Any) -> tuple[list[int], str]:
        done = sum(asked)
        asked.append(sampling.max_tokens)
        return loop[done : done + sampling.max_tokens], "length"

    strict.LLM.answer = staticmethod(answer)
    counts = run(texts=1, chain_length=1, **{"generation.repeat_check_tokens": 50})
    assert counts["pairs"] == 1 and counts["answers_stopped_at_repeats"] == 1 and counts["dropped"] == {}
    assert set(asked) == {50} and sum(asked) < 128


def test_timeouts_are_tried_again_then_refused(run: Callable[..., dict[str, Any]]) -> None:
    calls: list[int] = []

    def answer(ids: list[int], sampling: Any) -> tuple[list[int], str]:
        calls.append(1)
        return [], "timeout"

    strict.LLM.answer = staticmethod(answer)
    with pytest.raises(NoPairsError, match=r"refused by the engine \(1\)(.|\n)*The engine refused every text"):
        run(texts=1, **{"generation.max_refused_share": 1})
    assert len(calls) == 3


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


def test_the_mock_is_strict() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        strict.LLM("m", backend="pytorch")
    with pytest.raises(TypeError):
        strict.SamplingParams(max_new_tokens=3)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        strict.SamplingParams().n = 2
    with pytest.raises(RuntimeError):
        strict.SamplingParams(end_id=2, stop=["</END>"])


class TestSampling:
    @pytest.fixture
    def asked(
        self, monkeypatch: pytest.MonkeyPatch, engine_settings: Callable[..., EngineSettings]
    ) -> Callable[..., list[Any]]:
        """The SamplingParams that requests with these samplings were sent with."""
        strict.install(monkeypatch)

        def work(*samplings: Sampling) -> list[Any]:
            seen: list[Any] = []

            def answer(ids: list[int], parameters: Any) -> tuple[list[int], str]:
                seen.append(parameters)
                return [5, 6, 7, 2], "stop"

            strict.LLM.answer = staticmethod(answer)
            requests = [Request(Prompt([1, number], ""), each, seed=number) for number, each in enumerate(samplings)]
            generate_all(open_engine(engine_settings("tensorrt_llm", scoring=False)), requests, window=1)
            return seen

        return work

    def test_each_request_has_its_own(self, asked: Callable[..., list[Any]]) -> None:
        drawn = Sampling(9, 0.7, 0.9, top_k=40, min_p=0.05, repetition_penalty=1.1, stop_ids=(7,))
        greedy = Sampling(5, extra={"ignore_eos": True})
        first, second, third, fourth = asked(drawn, drawn, greedy, greedy)
        for seed, parameters in enumerate((first, second)):
            assert (parameters.max_tokens, parameters.temperature, parameters.top_p) == (9, 0.7, 0.9)
            assert (parameters.top_k, parameters.min_p, parameters.repetition_penalty) == (40, 0.05, 1.1)
            assert (parameters.stop_token_ids, parameters.seed) == ([7], seed)
        assert third is fourth
        assert third.ignore_eos and third.max_tokens == 5 and third.stop_token_ids is None and third.seed is None

    def test_what_cannot_be_honoured_is_refused(self, asked: Callable[..., list[Any]]) -> None:
        with pytest.raises(RecipeError, match=r"score\.engine: tensorrt_llm does not honour stop strings"):
            asked(Sampling(9, stop=("\n",)))
        with pytest.raises(RecipeError, match=r"score\.generation: refused by TensorRT-LLM: .*no_such"):
            asked(Sampling(9, extra={"no_such": 1}))


class TestScores:
    @pytest.fixture
    def score(
        self, monkeypatch: pytest.MonkeyPatch, engine_settings: Callable[..., EngineSettings]
    ) -> Callable[..., list[Score]]:
        torch = pytest.importorskip("torch")
        strict.install(monkeypatch)
        strict.LLM.answer = staticmethod(lambda ids, parameters: ([5], "length"))
        # The same for the same beginning, as a model's are.
        table = torch.randn(600, 600, generator=torch.Generator().manual_seed(1))
        strict.LLM.logits = staticmethod(lambda ids: table[torch.tensor(ids)])

        def work(requests: list[ScoreRequest], **more: Any) -> list[Score]:
            return score_all(open_engine(engine_settings("tensorrt_llm", **more)), requests)

        return work

    def test_are_sums_over_the_prompt(self, score: Callable[..., list[Score]]) -> None:
        import torch

        # The second begins with a block of the first.
        asked = [ScoreRequest([1, *range(3, 60)]), ScoreRequest([1, *range(3, 50), 70], [True, False] * 24 + [True])]
        for request, found in zip(asked, score([*asked, ScoreRequest([1])]), strict=False):
            ids = torch.tensor(request.ids)
            losses = torch.nn.functional.cross_entropy(strict.LLM.logits(request.ids)[:-1], ids[1:], reduction="none")
            kept = torch.tensor((request.mask or [True] * len(ids))[1:])
            assert found.tokens == kept.sum()
            assert found.log_likelihood == pytest.approx(-losses[kept].double().sum().item(), rel=1e-6)

    def test_logits_that_are_cut_short_are_noticed(
        self, score: Callable[..., list[Score]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = strict.LLM.logits
        monkeypatch.setattr(strict.LLM, "logits", staticmethod(lambda ids: whole(ids)[1:]))
        with pytest.raises(EngineError, match=r"score\.engine: .* logits of 3 tokens for a text of 4 tokens"):
            score([ScoreRequest([1, 5, 6, 7])])

    def test_an_engine_for_generation_does_not_score(self, score: Callable[..., list[Score]]) -> None:
        with pytest.raises(RecipeError, match=r"score\.engine: .*EngineSettings\(scoring=True\)"):
            score([ScoreRequest([1, 5, 6, 7])], scoring=False)

    def test_too_long_names_the_key(self, score: Callable[..., list[Score]]) -> None:
        with pytest.raises(InputError, match=r"256 tokens .* 255 .*score\.generation\.context_length"):
            score([ScoreRequest([5] * 256)])
