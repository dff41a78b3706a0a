"""Engine ``tensorrt_llm``: TensorRT-LLM in this process, one replica per process.

Written against the API of TensorRT-LLM 1.2 (PyTorch backend). Ids go in and ids come out; its own tokenizer is never
loaded, so no BOS can be added. Chains are admitted without a barrier, block reuse keeps their prefixes, chunked prefill
lets long prompts share a pass with decoding. Construct under ``if __name__ == "__main__"``: it starts processes.

Scores come from the logits of the prompt. ``SamplingParams.prompt_logprobs`` would be cheaper, but in 1.2 it holds only
the likeliest tokens at each place, and the prompt's own token is seldom among them. The logits of a text cross from the
worker process (tokens x vocabulary x 4 bytes): right, but for billions of tokens vLLM or transformers is the better
scorer. Block reuse is off for scoring, because logits of reused blocks are left out of the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import TensorRTConfig
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused, load_library
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer

_INSTALL = "see https://nvidia.github.io/TensorRT-LLM/installation (Python 3.10 or 3.12, CUDA 13; its own environment)"
_GIB = 1 << 30
_MOST_WINDOW = 512
"""About the chains whose prefixes an FP8 cache on an 80 GB card holds (650), with room for their growth."""
_SCORE_WINDOW = 8
"""Texts whose logits are in host memory at once."""
_SCORE_ROWS = 1024
"""Tokens whose log-probabilities are computed at once."""
_ATTEMPTS = 3


class TensorRTEngine(Engine):
    """See the module."""

    score_window = _SCORE_WINDOW
    takes_stop_strings = False

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        super().__init__(settings, tokenizer)
        self._library = load_library("tensorrt_llm", settings, _INSTALL)
        self._arguments = load_library("tensorrt_llm.llmapi", settings, _INSTALL)
        self._generation = settings.generation
        self._own: TensorRTConfig = settings.own or TensorRTConfig()
        self.window = min(self._own.max_batch_size, _MOST_WINDOW)
        self._greedy: dict[Sampling, Any] = {}
        self._retries = 0

    async def __aenter__(self) -> TensorRTEngine:
        self._llm = await asyncio.get_running_loop().run_in_executor(None, self._load)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._llm.shutdown)

    def figures(self) -> dict[str, float]:
        return {"retries": self._retries}

    @property
    def longest_score(self) -> int:
        # One token is generated behind the text.
        return self._generation.context_length - 1

    def _load(self) -> Any:
        own = self._own
        key = self.settings.key("tensorrt_llm")
        cache = self._arguments.KvCacheConfig(
            enable_block_reuse=not self.settings.scoring,
            free_gpu_memory_fraction=own.kv_cache_memory_share,
            host_cache_size=int(own.host_cache_gib * _GIB) or None,
            dtype=own.kv_cache_dtype,
        )
        graphs = self._arguments.CudaGraphConfig(enable_padding=True, max_batch_size=own.max_batch_size)
        try:
            return self._library.LLM(
                model=self._generation.model,
                skip_tokenizer_init=True,
                tensor_parallel_size=own.tensor_parallel_size,
                max_batch_size=own.max_batch_size,
                max_num_tokens=own.max_num_tokens,
                max_seq_len=self._generation.context_length,
                enable_chunked_prefill=True,
                kv_cache_config=cache,
                cuda_graph_config=graphs,
            )
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            raise EngineError(f"{key}: refused by TensorRT-LLM: {error}") from error
        except RuntimeError as error:
            raise EngineError(
                f"{key}: {self._generation.model} could not be loaded: {error}. If memory is short, lower "
                "kv_cache_memory_share or max_batch_size, or raise tensor_parallel_size."
            ) from error

    async def generate(self, request: Request) -> Completion:
        result = await self._answer(request.prompt.ids, self._parameters(request.sampling, request.seed))
        output = result.outputs[0]
        return self.completion(
            list(output.token_ids), output.finish_reason == "stop", len(request.prompt.ids), sampling=request.sampling
        )

    def continues(self, request: Request) -> bool:
        return True

    async def score(self, request: ScoreRequest) -> Score:
        if not self.settings.scoring:
            raise RecipeError(
                f"{self.settings.key('engine')}: tensorrt_llm was opened for generation; scores need it opened with "
                "EngineSettings(scoring=True)"
            )
        self.check_length(request)
        ids = list(request.ids)
        places = request.counted
        if not places:
            return request.score([])
        parameters = self._library.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            end_id=self.tokenizer.eos_id,
            pad_id=self.tokenizer.eos_id,
            detokenize=False,
            add_special_tokens=False,
            return_context_logits=True,
        )
        logits = (await self._answer(ids, parameters)).context_logits
        if logits is not None and logits.dim() == 3:
            logits = logits[0]  # one beam
        if logits is None or logits.shape[0] != len(ids):
            found = "no logits" if logits is None else f"logits of {logits.shape[0]} tokens"
            raise EngineError(
                f"{self.settings.key('engine')}: TensorRT-LLM returned {found} for a text of {len(ids)} tokens"
            )
        return request.score(
            await asyncio.get_running_loop().run_in_executor(None, self._log_likelihoods, logits, ids, places)
        )

    def _log_likelihoods(self, logits: Any, ids: list[int], places: list[int]) -> list[float]:
        """Of ``ids`` at ``places``; row ``t`` of ``logits`` [tokens, vocabulary] predicts token ``t + 1``."""
        torch = load_library("torch", self.settings, _INSTALL)
        found: list[float] = []
        for start in range(0, len(places), _SCORE_ROWS):
            some = places[start : start + _SCORE_ROWS]
            rows = torch.log_softmax(logits[[place - 1 for place in some]].float(), dim=-1)
            targets = torch.tensor([[ids[place]] for place in some], device=rows.device)
            found += rows.gather(1, targets)[:, 0].tolist()
        return found

    async def _answer(self, ids: list[int], parameters: Any) -> Any:
        """The result of one request.

        Raises:
            RequestRefused: it is invalid, or ends by timeout again and again.
            EngineError: the engine failed.
        """
        reason = ""
        for attempt in range(_ATTEMPTS):
            self._retries += attempt > 0
            try:
                result = await self._llm.generate_async({"prompt_token_ids": ids}, parameters).aresult()
            except (ValueError, TypeError) as error:
                raise RequestRefused(str(error)) from error
            except RuntimeError as error:
                raise EngineError(f"TensorRT-LLM failed: {error}. Rerun: finished work is kept.") from error
            reason = result.outputs[0].finish_reason
            if reason in ("stop", "length"):
                return result
        raise RequestRefused(f"ended by {reason} {_ATTEMPTS} times")

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        """``SamplingParams`` of a request; those of greedy requests are shared.

        Raises:
            RecipeError: TensorRT-LLM does not know or not honour a setting.
        """
        known = self._greedy.get(sampling)
        if known is not None:
            return known
        if sampling.stop:
            raise RecipeError(
                f"{self.settings.key('engine')}: tensorrt_llm does not honour stop strings, because it runs without a "
                "tokenizer; give the ids that end an answer as stop ids"
            )
        settings: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "end_id": self.tokenizer.eos_id,
            "pad_id": self.tokenizer.eos_id,
            "detokenize": False,
            "add_special_tokens": False,
        }
        for name in ("top_k", "min_p", "repetition_penalty"):
            if getattr(sampling, name) is not None:
                settings[name] = getattr(sampling, name)
        if sampling.stop_ids:
            settings["stop_token_ids"] = list(sampling.stop_ids)
        if sampling.temperature > 0:
            # Not every version honours the seed of a request: only temperature 0 is reproducible for certain.
            settings["seed"] = seed
        try:
            parameters = self._library.SamplingParams(**{**settings, **sampling.extra})
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.settings.key('generation')}: refused by TensorRT-LLM: {error}") from error
        if sampling.temperature == 0:
            self._greedy[sampling] = parameters
        return parameters
