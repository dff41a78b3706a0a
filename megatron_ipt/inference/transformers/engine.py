"""Engine ``transformers``: a model in this process, on CPU or one GPU, batched by length.

Requests gather in a queue. A worker thread takes the oldest together with those that are decoded alike and nearest to
it in length, and runs them at once. At equal answer lengths this beats continuous batching on CPU. A batch's results
depend on its padding only by rounding. For serious amounts of text use tensorrt_llm or a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.config import TransformersConfig
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, load_library
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest, fills_batch
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.inference.transformers.likelihood import score_batch
from megatron_ipt.inference.transformers.next_token import Chooser, LongEnough, StopStrings

_WINDOW_PER_BATCH = 4
"""Batches' worth of chains in flight: choice enough to batch by length."""
_FIRST_ANSWERS, _FIRST_BATCH = 20, 10
"""The first answers come in smaller batches, and so earlier: they show whether the model is of any use."""
_SCORE_WINDOW = 4096
"""Texts waiting to be scored. They are only ids, and choice is what keeps padding low."""
_EXTRA = ("min_new_tokens", "no_repeat_ngram_size")
"""Settings of transformers' ``GenerationConfig`` that do what they say beside our own choice of the next token."""


@dataclass(eq=False)
class _Waiting:
    """A request in the queue; ``alike`` is equal for those that may share a batch."""

    request: Request | ScoreRequest
    alike: Sampling | None
    length: int
    future: asyncio.Future[Any]


class TransformersEngine(Engine):
    """See the module."""

    checks_answers = True
    tuned = "transformers.batch_size"

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        super().__init__(settings, tokenizer)
        install = 'pip install "megatron-ipt[train]"'
        self._torch = load_library("torch", settings, install)
        self._library = load_library("transformers", settings, install)
        self._library.utils.logging.disable_progress_bar()
        self._generation = settings.generation
        self._own: TransformersConfig = settings.own or TransformersConfig()
        self.window = _WINDOW_PER_BATCH * self._own.batch_size
        self.score_window = _SCORE_WINDOW
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._answers = 0

    async def __aenter__(self) -> TransformersEngine:
        self._thread = ThreadPoolExecutor(1, "transformers")
        self._model = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=True)

    @property
    def load(self) -> int:
        return self._own.batch_size

    def set_load(self, value: int) -> int:
        self._own.batch_size = value
        return _WINDOW_PER_BATCH * value

    async def generate(self, request: Request) -> Completion:
        sampling = request.sampling
        self.refuse_control_tokens(sampling)
        unknown = [name for name in sampling.extra if name not in _EXTRA]
        if unknown:
            raise RecipeError(
                f"{self.settings.key('generation')}: the engine transformers does not honour {', '.join(unknown)}; "
                f"further settings that it does are {', '.join(_EXTRA)}"
            )
        completion: Completion = await self._queue(request, sampling, len(request.prompt.ids))
        return completion

    async def score(self, request: ScoreRequest) -> Score:
        self.check_length(request)
        if not request.counted:
            return request.score([])
        score: Score = await self._queue(request, None, len(request.ids))
        return score

    async def _queue(self, request: Request | ScoreRequest, alike: Sampling | None, length: int) -> Any:
        if self._failure is not None:
            raise EngineError(str(self._failure)) from self._failure
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, alike, length, future))
        self._wake.set()
        return await future

    def _load(self) -> Any:
        key = self.settings.key
        device = self._own.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        dtype = self._own.dtype
        try:
            model = self._library.AutoModelForCausalLM.from_pretrained(
                self._generation.model, dtype=dtype if dtype == "auto" else getattr(self._torch, dtype)
            )
            model = model.to(device).eval()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{key('generation.model')}: {self._generation.model} cannot be loaded by transformers: {error}"
            ) from error
        except RuntimeError as error:
            raise EngineError(f"{key('transformers.device')}: {device}: {error}") from error
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and limit < self._generation.context_length:
            raise InputError(
                f"{key('generation.context_length')}: {self._generation.context_length} is more than the {limit} "
                f"positions of {self._generation.model}"
            )
        # Replaces what the checkpoint suggests, so that the request alone decides.
        model.generation_config = self._library.GenerationConfig(pad_token_id=self.tokenizer.eos_id)
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
            work = self._score if batch[0].alike is None else self._generate
            requests: list[Any] = [waiting.request for waiting in batch]
            try:
                results: Sequence[Any] = await loop.run_in_executor(self._thread, work, requests)
            except Exception as error:
                self._failure = error
                for waiting in (*batch, *self._waiting):
                    if not waiting.future.done():
                        waiting.future.set_exception(EngineError(f"transformers: {type(error).__name__}: {error}"))
                return
            for waiting, result in zip(batch, results):
                if not waiting.future.done():
                    waiting.future.set_result(result)

    def _take(self) -> list[_Waiting]:
        """The oldest request and its neighbours in length; of texts to score, the longest and those next in length."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.future.done()]
        if not self._waiting:
            return []
        oldest = self._waiting[0]
        alike = [waiting for waiting in self._waiting if waiting.alike == oldest.alike]
        if oldest.alike is None:
            batch = self._to_score(sorted(alike, key=lambda waiting: -waiting.length))
        else:
            nearest = sorted(alike, key=lambda waiting: abs(waiting.length - oldest.length))
            batch = nearest[: self._batch_size()]
        taken = set(batch)
        self._waiting = [waiting for waiting in self._waiting if waiting not in taken]
        return batch

    def _batch_size(self) -> int:
        """Of the next batch to be generated."""
        size = self._own.batch_size
        return min(size, _FIRST_BATCH) if self._answers < _FIRST_ANSWERS else size

    def _to_score(self, longest_first: list[_Waiting]) -> list[_Waiting]:
        """The first of them that make one batch; at least one."""
        width = longest_first[0].length
        for rows, waiting in enumerate(longest_first, 1):
            if not fills_batch(rows, waiting.length, width, self._own.score_tokens):
                return longest_first[: rows - 1]
        return longest_first

    def _generate(self, requests: list[Request]) -> list[Completion]:
        torch, sampling = self._torch, requests[0].sampling
        device = self._model.device
        prompts = [request.prompt.ids for request in requests]
        width = max(map(len, prompts))
        pad = self.tokenizer.eos_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        settings = self._library.GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=[pad, *sampling.stop_ids],
            pad_token_id=pad,
            **sampling.extra,
        )
        more: dict[str, Any] = {}
        if sampling.temperature > 0 or sampling.repetition_penalty is not None:
            chooser = Chooser(torch, sampling, mask, [request.seed for request in requests])
            more["logits_processor"] = self._library.LogitsProcessorList([chooser])
        enough = LongEnough(torch, requests, self.tokenizer, width)
        criteria: list[Any] = [enough] if enough.asked else []
        if sampling.stop:
            criteria.append(StopStrings(torch, sampling.stop, self.tokenizer, width))
        if criteria:
            more["stopping_criteria"] = self._library.StoppingCriteriaList(criteria)
        with torch.inference_mode():
            output = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **more)
        completions = []
        for number, row in enumerate(output[:, width:].tolist()):
            finished = len(row) < sampling.max_new_tokens
            completion = self.completion(row, finished, len(prompts[number]), sampling=sampling)
            completions.append(enough.judged(number, completion))
        self._answers += len(completions)
        return completions

    def _score(self, requests: list[ScoreRequest]) -> list[Score]:
        return score_batch(self._model, requests, self.tokenizer.eos_id)
