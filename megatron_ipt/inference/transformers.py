"""Engine ``transformers``: a model in this process, on CPU or one GPU, batched by length.

Requests gather in a queue. A worker thread takes the oldest together with those nearest to it in length, pads on the
left and generates them at once. At equal answer lengths this beats continuous batching on CPU. A batch's results depend
on its padding only by rounding. For serious amounts of text use tensorrt_llm or a server.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import InputError
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, load_library

if TYPE_CHECKING:
    from megatron_ipt.inference.tokenizer import PromptTokenizer
    from megatron_ipt.synthesis.config import SynthesisConfig

_WINDOW_PER_BATCH = 4
"""Batches' worth of chains in flight: choice enough to batch by length."""

_Waiting = tuple[Request, "asyncio.Future[Completion]"]


class TransformersEngine(Engine):
    """See the module."""

    def __init__(self, config: SynthesisConfig, tokenizer: PromptTokenizer):
        super().__init__(config, tokenizer)
        install = 'pip install "megatron-ipt[train]"'
        self._torch = load_library("torch", "transformers", install)
        self._library = load_library("transformers", "transformers", install)
        self._library.utils.logging.disable_progress_bar()
        self._generation = config.generation
        self._settings = config.transformers
        self.window = _WINDOW_PER_BATCH * config.transformers.batch_size
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> TransformersEngine:
        self._thread = ThreadPoolExecutor(1, "transformers")
        self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def generate(self, request: Request) -> Completion:
        if self._failure is not None:
            raise EngineError(str(self._failure)) from self._failure
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._wake.set()
        return await future

    def _load(self) -> Any:
        device = self._settings.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        dtype = self._settings.dtype
        try:
            model = self._library.AutoModelForCausalLM.from_pretrained(
                self._generation.model, dtype=dtype if dtype == "auto" else getattr(self._torch, dtype)
            )
            model = model.to(device).eval()
        except (OSError, ValueError) as error:
            raise InputError(
                f"synthesis.generation.model: {self._generation.model} cannot be loaded by transformers: {error}"
            ) from error
        except RuntimeError as error:
            raise EngineError(f"synthesis.transformers.device: {device}: {error}") from error
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and limit < self._generation.context_length:
            raise InputError(
                f"synthesis.generation.context_length: {self._generation.context_length} is more than the {limit} "
                f"positions of {self._generation.model}"
            )
        sampling = self._generation.temperature > 0
        settings: dict[str, Any] = {
            "max_new_tokens": self._generation.max_new_tokens,
            "do_sample": sampling,
            "eos_token_id": self.tokenizer.eos_id,
            "pad_token_id": self.tokenizer.eos_id,
        }
        if sampling:
            settings |= {"temperature": self._generation.temperature, "top_p": self._generation.top_p}
        # Replaces what the checkpoint suggests, so that the recipe alone decides.
        model.generation_config = self._library.GenerationConfig(**settings)
        return model

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            # Chains that were answered together ask again within one turn of the loop; wait for them.
            await asyncio.sleep(0.002)
            batch = self._take()
            if not self._waiting:
                self._wake.clear()
            if not batch:
                continue
            try:
                completions = await loop.run_in_executor(
                    self._thread, self._generate, [request for request, _ in batch]
                )
            except Exception as error:
                self._failure = error
                for _, future in [*batch, *self._waiting]:
                    if not future.done():
                        future.set_exception(EngineError(f"transformers: {type(error).__name__}: {error}"))
                return
            for (_, future), completion in zip(batch, completions):
                if not future.done():
                    future.set_result(completion)

    def _take(self) -> list[_Waiting]:
        """The oldest request and its neighbours in length."""
        self._waiting = [(request, future) for request, future in self._waiting if not future.done()]
        if not self._waiting:
            return []
        length = len(self._waiting[0][0].prompt.ids)
        nearest = sorted(self._waiting, key=lambda waiting: abs(len(waiting[0].prompt.ids) - length))
        batch = nearest[: self._settings.batch_size]
        self._waiting = nearest[self._settings.batch_size :] and [item for item in self._waiting if item not in batch]
        return batch

    def _generate(self, requests: list[Request]) -> list[Completion]:
        torch = self._torch
        prompts = [request.prompt.ids for request in requests]
        width = max(map(len, prompts))
        pad = self.tokenizer.eos_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self._model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self._model.device
        )
        if self._generation.temperature > 0:
            torch.manual_seed(requests[0].seed)
        with torch.inference_mode():
            output = self._model.generate(input_ids=ids, attention_mask=mask)
        limit = self._generation.max_new_tokens
        completions = []
        for row, prompt in zip(output[:, width:].tolist(), prompts):
            completions.append(self.completion(row, len(row) < limit, len(prompt)))
        return completions
