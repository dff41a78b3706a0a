"""Engine ``openai``: servers that speak the OpenAI completions API, through the official client.

Failures that may pass (429, 5xx, timeouts, lost connections, unreadable answers) are retried with growing, jittered
pauses for ``patience`` seconds. A request that keeps failing while its server answers others is refused alone, so that
one poisonous text cannot stop a run. Every server is first asked for one token alone, and its count of prompt tokens is
compared with ours: a doubled BOS would otherwise spoil millions of texts unseen.

A score is a completion of one token that nobody reads; what counts are the log-likelihoods of the prompt in the answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Prompt, Request, RequestRefused, load_library
from megatron_ipt.inference.openai.answers import (
    Answer,
    NotScored,
    Unreadable,
    echoed_logprobs,
    error_message,
    prompt_logprobs,
    read_completion,
    retry_after,
)
from megatron_ipt.inference.openai.profiles import PROFILES
from megatron_ipt.inference.openai.servers import Server, ServerPool
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_WINDOW_PER_SERVER = 256
_CHAINS_PER_CLIENT = 32
_FAILURES_BEFORE_MOVING = 3
_RETRIED_STATUS = frozenset((408, 409, 425, 429))
_WRONG_REQUEST_STATUS = frozenset((400, 413, 422))
_ONE_TOKEN = Sampling(max_new_tokens=1)
_SCORES: dict[str, tuple[dict[str, Any], Callable[..., list[float]]]] = {
    "prompt_logprobs": ({"prompt_logprobs": 0}, prompt_logprobs),
    "echo": ({"echo": True, "logprobs": 1}, echoed_logprobs),
}
"""How log-likelihoods of a prompt are asked for and read, by ``Profile.scores``."""


class _Passing(Exception):
    """A failure that may pass; ``lost`` where the server could not be reached or did not answer."""

    def __init__(self, message: str, lost: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.lost = lost
        self.wait = wait


class OpenAIEngine(Engine):
    """See the module."""

    def __init__(self, settings: EngineSettings, tokenizer: PromptTokenizer):
        super().__init__(settings, tokenizer)
        self._own: OpenAIConfig = settings.own or OpenAIConfig()
        self._model = settings.generation.model
        self._profile = PROFILES[self._own.server]
        self._library = load_library("openai", settings, 'pip install "megatron-ipt[synthesis]"')
        self._fields: dict[Sampling, dict[str, Any]] = {}
        self._counts: Counter[str] = Counter()
        # Scores belong to no chain; each is given one of its own, apart from those of the caller.
        self._score_chains = itertools.count(-1, -1)
        servers = len(self._own.base_urls)
        self.window = self.score_window = _WINDOW_PER_SERVER * servers
        in_flight = (settings.generation.window or self.window) / servers
        self._pool = ServerPool(settings, self._own, self._library, math.ceil(in_flight / _CHAINS_PER_CLIENT))

    async def __aenter__(self) -> OpenAIEngine:
        key = os.environ.get(self._own.api_key_variable) or "none"
        try:
            await self._pool.connect(key, self._model if self._profile.lists_model else None)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._pool.close()

    def figures(self) -> dict[str, float]:
        return {"retries": self._counts["retries"], "moved_chains": self._counts["moved_chains"]}

    def release(self, chain: int) -> None:
        self._pool.release(chain)

    @property
    def longest_score(self) -> int:
        # The one token that a server insists on generating needs a place, too.
        return self.settings.generation.context_length - 1

    async def generate(self, request: Request) -> Completion:
        fields = self._sampling_fields(request.sampling)
        if self._profile.samples:
            fields = fields | {"seed": request.seed}

        async def ask(server: Server) -> Completion:
            answer = await self._post(server, request.chain, request.prompt, fields)
            return self._completion(read_completion(answer, self._profile.answer_ids), request.sampling)

        return await self._until_answered(request.chain, request.prompt, fields, ask)

    def continues(self, request: Request) -> bool:
        schema = request.sampling.json_schema
        constrained = schema is not None and self._own.json_schema and bool(self._profile.constrained_by(schema))
        return self._profile.prompt_ids and bool(self._profile.answer_ids) and not constrained

    async def score(self, request: ScoreRequest) -> Score:
        if not self._profile.scores:
            able = ", ".join(name for name, profile in PROFILES.items() if profile.scores)
            raise RecipeError(
                f"{self.settings.key('openai.server')}: {self._own.server} does not return log-likelihoods of prompts, "
                f"so it does not score; {able} do"
            )
        self.check_length(request)
        places = request.counted
        if not places:
            return request.score([])
        asked_for, read = _SCORES[self._profile.scores]
        prompt = Prompt(list(request.ids), "")
        fields = self._sampling_fields(_ONE_TOKEN)
        chain = next(self._score_chains)

        async def ask(server: Server) -> Score:
            answer = await self._post(server, chain, prompt, fields | asked_for)
            try:
                return request.score(read(answer, prompt.ids, places))
            except NotScored as error:
                raise EngineError(
                    f"{server.url}: does not score: {error}. Set {self.settings.key('openai.server')} to the kind of "
                    f"server this is (now {self._own.server}); vllm scores."
                ) from error

        try:
            return await self._until_answered(chain, prompt, fields, ask)
        finally:
            self.release(chain)

    def _sampling_fields(self, sampling: Sampling) -> dict[str, Any]:
        """Request fields for ``sampling``.

        Raises:
            RecipeError: this kind of server does not honour one of its settings.
        """
        known = self._fields.get(sampling)
        if known is not None:
            return known
        self.refuse_control_tokens(sampling)
        takes = self._profile.takes
        needed = set(sampling.beyond_greedy()) - {"temperature", "extra"}
        if sampling.temperature == 0:
            # What is left of sampling is the likeliest token.
            needed -= {"top_p", "top_k", "min_p"}
        refused = needed - takes.keys()
        if sampling.temperature > 0 and not self._profile.samples:
            refused.add("temperature")
        if sampling.extra and not self._profile.free_fields:
            refused.update(sampling.extra)
        if refused:
            raise RecipeError(
                f"{self.settings.key('openai.server')}: {self._own.server} does not honour {', '.join(sorted(refused))}"
            )
        fields: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if "top_p" in takes:
            fields["top_p"] = sampling.top_p
        for name in needed - {"top_p"}:
            value = getattr(sampling, name)
            fields[takes[name]] = list(value) if isinstance(value, tuple) else value
        if sampling.json_schema is not None and self._own.json_schema:
            fields |= self._profile.constrained_by(sampling.json_schema)
        fields |= sampling.extra
        self._fields[sampling] = fields
        return fields

    async def _until_answered(
        self, chain: int, prompt: Prompt, fields: dict[str, Any], ask: Callable[[Server], Awaitable[Result]]
    ) -> Result:
        """What ``ask`` returns, tried again while failures may pass.

        Raises:
            RequestRefused: it fails while its server answers others.
            EngineError: its server does not answer.
        """
        began: float | None = None
        failures = 0
        while True:
            server = self._pool.server_of(chain)
            server.in_flight += 1
            try:
                if not server.checked:
                    await self._probe(server, chain, prompt, fields)
                result = await ask(server)
                server.last_success = time.monotonic()
                return result
            except (_Passing, Unreadable) as failure:
                now = time.monotonic()
                began = now if began is None else began
                failures += 1
                self._counts["retries"] += 1
                if now - began >= self._own.patience:
                    if server.last_success > began:
                        raise RequestRefused(
                            f"{server.url}: {failure}, {failures} times, while others succeed"
                        ) from failure
                    raise EngineError(
                        f"{server.url}: {failure}; tried {failures} times in {now - began:.0f} s "
                        f"({self.settings.key('openai.patience')}). Fix the server and rerun: finished work is kept."
                    ) from failure
                if failures == 1:
                    logger.debug("%s: %s; retrying", server.url, failure)
                wait = 0.0
                if isinstance(failure, _Passing):
                    wait = failure.wait
                    if failure.lost and failures >= _FAILURES_BEFORE_MOVING and self._pool.move(chain, server):
                        self._counts["moved_chains"] += 1
            finally:
                server.in_flight -= 1
            await asyncio.sleep(max(wait, self._pool.pause(failures)))

    async def _probe(self, server: Server, chain: int, prompt: Prompt, fields: dict[str, Any]) -> None:
        """Asks ``server`` for one token of its first prompt and checks the answer, while all others wait."""
        async with server.first:
            if server.fault is not None:
                raise server.fault
            if not server.checked:
                answer = await self._post(server, chain, prompt, fields | {"max_tokens": 1})
                self._check(server, prompt, read_completion(answer, self._profile.answer_ids))
                server.checked = True

    def _check(self, server: Server, prompt: Prompt, answer: Answer) -> None:
        """Compares the server's count of the prompt's tokens with ours; a difference condemns the server."""
        ours, theirs = len(prompt.ids), answer.prompt_tokens
        if ours == theirs:
            return
        key = self.settings.key
        if theirs == ours + 1:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens where {ours} were sent: it adds a second BOS. Set "
                f"{key('openai.server')} to the kind of server this is (now {self._own.server}), or start it so that "
                "it adds no special tokens."
            )
        else:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens, we count {ours}: it uses another tokenizer than "
                f"{self.tokenizer.path}. Point {key('generation.tokenizer')} at the tokenizer of the served model."
            )
        raise server.fault

    async def _post(self, server: Server, chain: int, prompt: Prompt, fields: dict[str, Any]) -> Any:
        """One request; its failures as they are to be handled."""
        extra = {**self._profile.extra, **self._own.extra, **fields}
        if self._profile.prompt_ids:
            # As a declared argument the client would look at the type of every id: 14 ms for 900 of them.
            extra["prompt"] = prompt.ids
        library = self._library
        try:
            client = server.clients[chain % len(server.clients)]
            return await client.completions.create(
                model=self._model, prompt="" if self._profile.prompt_ids else prompt.text, extra_body=extra
            )
        except library.APITimeoutError as error:
            raise _Passing(
                f"no answer within {self._own.timeout:g} s ({self.settings.key('openai.timeout')})", lost=True
            ) from error
        except library.APIConnectionError as error:
            raise _Passing(f"connection failed: {error.__cause__ or error}", lost=True) from error
        except library.APIStatusError as error:
            raise self._failure(server, error) from error
        except (library.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _Passing(f"answered what is not a completion: {error}") from error

    def _failure(self, server: Server, error: Any) -> Exception:
        status, message = error.status_code, error_message(error)
        if status in _RETRIED_STATUS or status >= 500:
            return _Passing(f"status {status}: {message}", wait=retry_after(error))
        if status in _WRONG_REQUEST_STATUS and server.checked:
            return RequestRefused(f"status {status}: {message}")
        key = self.settings.key
        schema = any(sampling.json_schema for sampling in self._fields) and self._own.json_schema
        advice = f" If it does not take JSON schemas, set {key('openai.json_schema')}=false." if schema else ""
        return EngineError(
            f"{server.url}: status {status}: {message}. Check {key('openai.base_urls')} (ends in /v1), "
            f"{key('openai.server')} (now {self._own.server}) and {key('generation.model')} (now {self._model})."
            f"{advice}"
        )

    def _completion(self, answer: Answer, sampling: Sampling) -> Completion:
        if answer.ids is not None:
            completion = self.completion(answer.ids, answer.finished, answer.prompt_tokens, sampling=sampling)
        else:
            text = answer.text.removesuffix(self.tokenizer.eos)
            ids = self.tokenizer.encode([text])[0]
            completion = self.completion(ids, answer.finished, answer.prompt_tokens, text, sampling)
        return replace(completion, generated_tokens=answer.generated_tokens, cached_tokens=answer.cached_tokens)
