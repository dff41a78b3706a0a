"""A mock of ``tensorrt_llm`` 1.2: the part of its API that the engine may use, and nothing else.

Any argument, attribute or call that the real API (as listed below) does not have is refused the way the real one
refuses it: unknown arguments of ``LLM`` with a ValueError (pydantic), of plain classes with a TypeError, attributes
with an AttributeError. ``install`` puts it in place of the real package.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

_ARGUMENTS = """
model tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code tensor_parallel_size dtype revision
tokenizer_revision pipeline_parallel_size moe_expert_parallel_size max_batch_size max_num_tokens max_seq_len
max_input_len enable_chunked_prefill kv_cache_config cuda_graph_config scheduler_config gpus_per_node
guided_decoding_backend speculative_config disable_overlap_scheduler enable_attention_dp attn_backend
"""
LLM_ARGUMENTS = frozenset(_ARGUMENTS.split())
FINISH_REASONS = ("stop", "length", "timeout", "cancelled")


class _Strict:
    """No attribute that was not there after construction can be set or read."""

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_sealed", False):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        super().__setattr__(name, value)


class KvCacheConfig(_Strict):
    def __init__(
        self,
        *,
        enable_block_reuse: bool = True,
        max_tokens: int | None = None,
        free_gpu_memory_fraction: float = 0.9,
        host_cache_size: int | None = None,
        tokens_per_block: int = 32,
        dtype: str = "auto",
    ):
        if not 0 <= free_gpu_memory_fraction <= 1 or dtype not in ("auto", "fp8"):
            raise ValueError("validation error for KvCacheConfig")
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})
        self.__dict__["_sealed"] = True


class CudaGraphConfig(_Strict):
    def __init__(self, *, enable_padding: bool = False, max_batch_size: int = 0, batch_sizes: list[int] | None = None):
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})
        self.__dict__["_sealed"] = True


class SamplingParams(_Strict):
    def __init__(
        self,
        *,
        end_id: int | None = None,
        pad_id: int | None = None,
        max_tokens: int = 32,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        ignore_eos: bool = False,
        detokenize: bool = True,
        add_special_tokens: bool = True,
        skip_special_tokens: bool = True,
        truncate_prompt_tokens: int | None = None,
        return_context_logits: bool = False,
        prompt_logprobs: int | None = None,
    ):
        if end_id is not None and stop is not None:
            raise RuntimeError("end_id together with stop strings")
        if (temperature or 0) < 0 or (top_p is not None and not 0 < top_p <= 1):
            raise ValueError("require temperature >= 0 and 0 < top_p <= 1")
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})
        self.__dict__["_sealed"] = True


class CompletionOutput(_Strict):
    def __init__(self, text: str, token_ids: list[int], finish_reason: str):
        assert finish_reason in FINISH_REASONS
        self.index, self.text, self.token_ids, self.finish_reason = 0, text, token_ids, finish_reason
        self.stop_reason, self._sealed = None, True


class RequestOutput(_Strict):
    def __init__(self, prompt_token_ids: list[int], work: Any, context_logits: Any = None):
        self._work = work
        self.prompt_token_ids = prompt_token_ids
        self.context_logits = context_logits
        self.outputs: list[CompletionOutput] = []
        self.__dict__["_sealed"] = True

    async def aresult(self) -> RequestOutput:
        self.outputs.append(await self._work)
        return self

    def __await__(self) -> Any:
        return self.aresult().__await__()

    def abort(self) -> None: ...


class LLM(_Strict):
    """Answers through ``LLM.answer(ids, sampling_params)``, which a test sets: ids and finish reason, or an error.

    ``LLM.logits(ids)`` are the logits of a prompt, [tokens, vocabulary]. As in the real one, those of blocks in the
    cache (32 tokens that an earlier prompt began with) are left out.
    """

    answer: Callable[[list[int], SamplingParams], tuple[list[int], str]]
    logits: Callable[[list[int]], Any]
    instances: list[LLM]

    def __init__(self, model: str, tokenizer: Any = None, skip_tokenizer_init: bool = False, **arguments: Any):
        unknown = arguments.keys() - LLM_ARGUMENTS
        if unknown:
            raise ValueError(f"validation error for TorchLlmArgs: {sorted(unknown)}: Extra inputs are not permitted")
        for name, kind in (("kv_cache_config", KvCacheConfig), ("cuda_graph_config", CudaGraphConfig)):
            if not isinstance(arguments.get(name), (kind, type(None))):
                raise ValueError(f"validation error for TorchLlmArgs: {name}")
        self.arguments = arguments | {"model": model, "skip_tokenizer_init": skip_tokenizer_init}
        self.is_shut_down = False
        self.cached: list[list[int]] = []
        self.in_flight = self.most_in_flight = 0
        LLM.instances.append(self)

    def generate_async(
        self, inputs: Any, sampling_params: SamplingParams | None = None, *, streaming: bool = False
    ) -> RequestOutput:
        assert not self.is_shut_down
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError("The sampling_params must be type SamplingParams")
        ids = inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs
        if isinstance(ids, str) and self.arguments["skip_tokenizer_init"]:
            raise ValueError("tokenizer is required to tokenize string prompt")
        if sampling_params.end_id is None and self.arguments["skip_tokenizer_init"]:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if len(ids) + sampling_params.max_tokens > self.arguments["max_seq_len"]:
            raise ValueError("The sum of prompt length and max_tokens should not exceed max_seq_len")
        logits = None
        if sampling_params.return_context_logits:
            cache = self.arguments["kv_cache_config"]
            reused = 0
            if cache.enable_block_reuse:
                reused = 32 * any(len(ids) > 32 and old[:32] == ids[:32] for old in self.cached)
            logits = LLM.logits(ids)[reused:]
            self.cached.append(ids)
        return RequestOutput(ids, self._work(ids, sampling_params), logits)

    async def _work(self, ids: list[int], sampling_params: SamplingParams) -> CompletionOutput:
        self.__dict__["in_flight"] += 1
        self.__dict__["most_in_flight"] = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.__dict__["in_flight"] -= 1
        generated, reason = LLM.answer(ids, sampling_params)
        return CompletionOutput("" if not sampling_params.detokenize else "text", generated, reason)

    def shutdown(self) -> None:
        self.__dict__["is_shut_down"] = True

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    package, llmapi = types.ModuleType("tensorrt_llm"), types.ModuleType("tensorrt_llm.llmapi")
    for module, names in (
        (package, (LLM, SamplingParams)),
        (llmapi, (LLM, SamplingParams, KvCacheConfig, CudaGraphConfig)),
    ):
        for item in names:
            setattr(module, item.__name__, item)
    package.llmapi = llmapi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", llmapi)
    LLM.instances = []
