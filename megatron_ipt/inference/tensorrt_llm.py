"""Engine ``tensorrt_llm``: TensorRT-LLM in this process, one replica a process.

Written against the API of TensorRT-LLM 1.2 (PyTorch backend). Ids go in and ids come out; its own tokenizer is never
loaded, so no BOS can be added. Chains are admitted without a barrier, block reuse keeps their prefixes, chunked prefill
lets long prompts share a pass with decoding. Construct under ``if __name__ == "__main__"``: it starts processes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused, load_library

if TYPE_CHECKING:
    from megatron_ipt.inference.tokenizer import PromptTokenizer
    from megatron_ipt.synthesis.config import SynthesisConfig

_INSTALL = (
    "see https://nvidia.github.io/TensorRT-LLM/installation (Python 3.10 or 3.12, CUDA 13; an environment of its own)"
)
_GIB = 1 << 30
_MOST_WINDOW = 512
"""About the chains whose prefixes an FP8 cache on an 80 GB card holds (650), with room for their growth."""
_ATTEMPTS = 3


class TensorRTEngine(Engine):
    """See the module."""

    def __init__(self, config: SynthesisConfig, tokenizer: PromptTokenizer):
        super().__init__(config, tokenizer)
        self._library = load_library("tensorrt_llm", "tensorrt_llm", _INSTALL)
        self._arguments = load_library("tensorrt_llm.llmapi", "tensorrt_llm", _INSTALL)
        self._generation = config.generation
        self._settings = config.tensorrt_llm
        self.window = min(config.tensorrt_llm.max_batch_size, _MOST_WINDOW)
        self._retries = 0

    async def __aenter__(self) -> TensorRTEngine:
        self._llm = await asyncio.get_running_loop().run_in_executor(None, self._load)
        # Reproducible at temperature 0 only: a seed of a request may not be honoured.
        self._sampling = self._library.SamplingParams(
            max_tokens=self._generation.max_new_tokens,
            temperature=self._generation.temperature,
            top_p=self._generation.top_p,
            end_id=self.tokenizer.eos_id,
            pad_id=self.tokenizer.eos_id,
            detokenize=False,
            add_special_tokens=False,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._llm.shutdown)

    def figures(self) -> dict[str, float]:
        return {"retries": self._retries}

    def _load(self) -> Any:
        settings = self._settings
        cache = self._arguments.KvCacheConfig(
            enable_block_reuse=True,
            free_gpu_memory_fraction=settings.kv_cache_memory_share,
            host_cache_size=int(settings.host_cache_gib * _GIB) or None,
            dtype=settings.kv_cache_dtype,
        )
        graphs = self._arguments.CudaGraphConfig(enable_padding=True, max_batch_size=settings.max_batch_size)
        try:
            return self._library.LLM(
                model=self._generation.model,
                skip_tokenizer_init=True,
                tensor_parallel_size=settings.tensor_parallel_size,
                max_batch_size=settings.max_batch_size,
                max_num_tokens=settings.max_num_tokens,
                max_seq_len=self._generation.context_length,
                enable_chunked_prefill=True,
                kv_cache_config=cache,
                cuda_graph_config=graphs,
            )
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            raise EngineError(f"synthesis.tensorrt_llm: refused by TensorRT-LLM: {error}") from error
        except RuntimeError as error:
            raise EngineError(
                f"synthesis.tensorrt_llm: {self._generation.model} could not be loaded: {error}. If memory is short, "
                "lower kv_cache_memory_share or max_batch_size, or raise tensor_parallel_size."
            ) from error

    async def generate(self, request: Request) -> Completion:
        prompt = {"prompt_token_ids": request.prompt.ids}
        reason = ""
        for attempt in range(_ATTEMPTS):
            self._retries += attempt > 0
            try:
                result = await self._llm.generate_async(prompt, self._sampling).aresult()
            except (ValueError, TypeError) as error:
                raise RequestRefused(str(error)) from error
            except RuntimeError as error:
                raise EngineError(f"TensorRT-LLM failed: {error}. Rerun: finished texts are kept.") from error
            output = result.outputs[0]
            reason = output.finish_reason
            if reason in ("stop", "length"):
                return self.completion(list(output.token_ids), reason == "stop", len(request.prompt.ids))
        raise RequestRefused(f"ended by {reason} {_ATTEMPTS} times")
