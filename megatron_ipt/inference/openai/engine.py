"""Engine ``openai``: servers that speak the OpenAI API of completions or chats, through the official client.

Failures that may pass (429, 5xx, timeouts, lost connections, unreadable answers) are retried with growing, jittered
pauses for ``patience`` seconds. A request that keeps failing while its server answers others is refused alone, so that
one poisonous text cannot stop a run. Every server is first asked for one token alone, and its count of prompt tokens is
compared with ours: a doubled BOS would otherwise spoil millions of texts unseen. Later answers are held against their
prompts as well, so that an answer to another request is noticed. The prompt of a chat is made by the server, so there
is no count of ours; only a count below that of the messages alone gives a truncated prompt away.

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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import Completion, Engine, EngineError, Prompt, Request, RequestRefused, load_library
from megatron_ipt.inference.openai.answers import (
    Answer,
    NotScored,
    Unreadable,
    Withheld,
    echoed_logprobs,
    error_message,
    is_filtered,
    is_too_long,
    never_sent,
    prompt_logprobs,
    read_chat,
    read_completion,
    retry_after,
    usage_of,
)
from megatron_ipt.inference.openai.chats import chat_fields, without_system
from megatron_ipt.inference.openai.fields import sampling_fields
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
_SHORT_PROMPT = 8
_SCORES: dict[str, tuple[dict[str, Any], Callable[..., list[float]]]] = {
    "prompt_logprobs": ({"prompt_logprobs": 0}, prompt_logprobs),
    "echo": ({"echo": True, "logprobs": 1}, echoed_logprobs),
}
"""How log-likelihoods of a prompt are asked for and read, by ``Profile.scores``."""


class _Passing(Exception):
    """A failure that may pass; ``lost`` where the server could not be reached or did not answer in time."""

    def __init__(self, message: str, lost: bool = False, timed_out: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.lost = lost
        self.timed_out = timed_out
        self.wait = wait


class _Rejected(Exception):
    """The server rejects the request as it is."""


class OpenAIEngine(Engine):
    """See the module."""

    meters = True

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
        if self._profile.chats and not request.prompt.messages:
            raise RecipeError(
                f"{self.settings.key('openai.server')}: {self._own.server} sends chats, and this prompt is none. Use a "
                "prompt style with messages, e.g. chat, or a server that takes token ids."
            )

        async def ask(server: Server) -> Completion:
            answer = self._read(await self._post(server, request.chain, request.prompt, fields))
            self._check_again(request.prompt, answer)
            if is_too_long(answer, request.sampling.max_new_tokens):
                raise Withheld(
                    f"{server.url}: ignores max_tokens: {len(answer.text):,} characters in answer to a request for at "
                    f"most {request.sampling.max_new_tokens:,} tokens"
                )
            return self._completion(request, answer)

        return await self._until_answered(request.chain, request.prompt, fields, ask)

    def continues(self, request: Request) -> bool:
        schema = request.sampling.json_schema
        constrained = schema is not None and self._own.json_schema and self._profile.json_schema is not None
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
        kind = f"{self.settings.key('openai.server')}: {self._own.server}"
        fields = sampling_fields(sampling, self._profile, self._own.json_schema, self.tokenizer, kind)
        self._fields[sampling] = fields
        return fields

    async def _until_answered(
        self, chain: int, prompt: Prompt, fields: dict[str, Any], ask: Callable[[Server], Awaitable[Result]]
    ) -> Result:
        """What ``ask`` returns, tried again while failures may pass.

        Raises:
            RequestRefused: the server rejects it, withholds the answer, or fails at it while it answers others.
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
                server.outage.answered()
                return result
            except (_Rejected, Withheld) as failure:
                raise RequestRefused(str(failure)) from failure
            except (_Passing, Unreadable) as failure:
                now = time.monotonic()
                began = now if began is None else began
                failures += 1
                self._counts["retries"] += 1
                lost = isinstance(failure, _Passing) and failure.lost
                server.outage.failed(failure, isinstance(failure, _Passing) and failure.timed_out)
                if now - began >= self._own.patience:
                    if server.last_success > began:
                        raise RequestRefused(
                            f"{server.url}: {failure}, {failures} times, while others succeed"
                        ) from failure
                    raise EngineError(
                        f"{server.url}: {failure}; tried {failures} times in {now - began:.0f} s "
                        f"({self.settings.key('openai.patience')}). Fix the server and rerun: finished work is kept."
                    ) from failure
                wait = failure.wait if isinstance(failure, _Passing) else 0.0
                if lost and failures >= _FAILURES_BEFORE_MOVING and self._pool.move(chain, server):
                    self._counts["moved_chains"] += 1
            finally:
                server.in_flight -= 1
            await asyncio.sleep(max(wait, self._pool.pause(failures)))

    async def _probe(self, server: Server, chain: int, prompt: Prompt, fields: dict[str, Any]) -> None:
        """Asks ``server`` for one token of its first prompt and checks the answer, while all others wait."""
        async with server.first:
            if server.fault is not None:
                raise server.fault
            if server.checked:
                return
            await self._pool.look_at(server)
            fields = fields | {"max_tokens": 1}
            try:
                answer = await self._post(server, chain, prompt, fields)
            except _Rejected as rejection:
                prompt, answer = await self._after_rejection(server, chain, prompt, fields, rejection)
            self._check_first(server, prompt, self._read(answer))
            server.checked = True

    async def _after_rejection(
        self, server: Server, chain: int, prompt: Prompt, fields: dict[str, Any], rejection: _Rejected
    ) -> tuple[Prompt, Any]:
        """What else can be asked after the first request was rejected, and the answer.

        A chat template may know no system messages, which are then put into the first message of the user. Or this one
        text is rejected, for example where refused texts are asked about again: then a short prompt is answered.

        Raises:
            EngineError: the server rejects everything.
        """
        for other, merges in self._instead_of(prompt):
            server.merges_system = merges
            try:
                return other, await self._post(server, chain, other, fields)
            except _Rejected:
                server.merges_system = False
        raise self._wrong(server, str(rejection)) from rejection

    def _instead_of(self, prompt: Prompt) -> Iterator[tuple[Prompt, bool]]:
        """Prompts to ask instead of one that was rejected, and whether system messages are to be merged for it."""
        if self._profile.chats:
            if prompt.messages[0]["role"] == "system":
                yield prompt, True
            yield Prompt([], "", ({"role": "user", "content": "Hello"},)), False
        elif self._profile.prompt_ids:
            yield Prompt(prompt.ids[:_SHORT_PROMPT], ""), False

    def _read(self, answer: Any) -> Answer:
        if self._profile.chats:
            return read_chat(answer)
        return read_completion(answer, self._profile.answer_ids, self._profile.echoed_ids)

    def _check_first(self, server: Server, prompt: Prompt, answer: Answer) -> None:
        """Compares the server's count of the prompt's tokens with ours; a difference condemns the server."""
        ours, theirs = len(prompt.ids), answer.prompt_tokens
        key = self.settings.key
        if self._profile.chats:
            if theirs is None:
                logger.warning("%s: sends no usage with its answers; tokens are estimated", server.url)
            elif self.tokenizer.path is not None and theirs < ours:
                server.fault = EngineError(
                    f"{server.url}: counts {theirs} prompt tokens, the messages alone have {ours}: it truncates "
                    f"prompts, or uses another tokenizer than {self.tokenizer.path}. Raise the context of the server, "
                    f"or correct {key('generation.tokenizer')}."
                )
        elif theirs is None:
            server.fault = EngineError(
                f"{server.url}: sends no usage with its answers, so nothing shows whether it reads prompts as they "
                f"are sent. Use a server that counts prompt tokens, or set {key('openai.server')} to openai-chat, "
                "which does without (for chat models)."
            )
        elif theirs == ours + 1:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens where {ours} were sent: it adds a second BOS. Set "
                f"{key('openai.server')} to the kind of server this is (now {self._own.server}), or start it so that "
                "it adds no special tokens."
            )
        elif theirs != ours:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens, we count {ours}: it uses another tokenizer than "
                f"{self.tokenizer.path}. Point {key('generation.tokenizer')} at the tokenizer of the served model."
            )
        if server.fault is not None:
            raise server.fault

    def _check_again(self, prompt: Prompt, answer: Answer) -> None:
        """Notices an answer to another request.

        Raises:
            Unreadable: the server repeats other ids than those of the prompt, or counts more or fewer.
        """
        if answer.prompt_ids is not None and answer.prompt_ids != prompt.ids:
            raise Unreadable("answered another prompt than the one it was sent")
        if self._profile.prompt_ids and answer.prompt_tokens != len(prompt.ids):
            raise Unreadable(
                f"counts {answer.prompt_tokens} tokens of a prompt of {len(prompt.ids)}, as if it answered another one"
            )

    async def _post(self, server: Server, chain: int, prompt: Prompt, fields: dict[str, Any]) -> Any:
        """One request; its failures as they are to be handled."""
        extra = {**self._profile.extra, **fields, **self._own.extra}
        library = self._library
        client = server.clients[chain % len(server.clients)]
        call: Any = client.completions.create
        declared: dict[str, Any] = {"prompt": prompt.text}
        if self._profile.chats:
            call, declared = client.chat.completions.create, {"messages": []}
            messages = without_system(prompt.messages) if server.merges_system else prompt.messages
            extra = chat_fields(messages, prompt.template_variables, server.owner) | extra
        elif self._profile.prompt_ids:
            # As a declared argument the client would look at the type of every id: 14 ms for 900 of them.
            extra["prompt"] = prompt.ids
        # A null in the recipe takes a field away.
        extra = {name: value for name, value in extra.items() if value is not None}
        self.meter.asked()
        try:
            answer = await call(model=self._model, extra_body=extra, **declared)
        except library.APITimeoutError as error:
            raise _Passing(
                f"no answer within {self._own.timeout:g} s ({self.settings.key('openai.timeout')})",
                lost=True,
                timed_out=True,
            ) from error
        except library.APIConnectionError as error:
            if never_sent(error):
                self.meter.failed()
            raise _Passing(f"connection failed: {error.__cause__ or error}", lost=True) from error
        except library.APIStatusError as error:
            self.meter.failed()
            raise self._failure(server, error) from error
        except (library.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _Passing(f"answered what is not a completion: {error}") from error
        if getattr(answer, "choices", None):
            # Whatever becomes of it, it is paid for.
            self.meter.answered(*usage_of(answer))
        return answer

    def _failure(self, server: Server, error: Any) -> Exception:
        status, message = error.status_code, error_message(error)
        if status in _RETRIED_STATUS or status >= 500:
            return _Passing(f"status {status}: {message}", wait=retry_after(error))
        if is_filtered(error):
            return Withheld(f"status {status}: {message}")
        if status in _WRONG_REQUEST_STATUS:
            return _Rejected(f"status {status}: {message}")
        return self._wrong(server, f"status {status}: {message}")

    def _wrong(self, server: Server, message: str) -> EngineError:
        """The error for a server that rejects even its first request."""
        key = self.settings.key
        schema = self._profile.json_schema and self._own.json_schema and any(one.json_schema for one in self._fields)
        advice = f" If it does not take JSON schemas, set {key('openai.json_schema')}=false." if schema else ""
        return EngineError(
            f"{server.url}: {message}. Check {key('openai.base_urls')} (ends in /v1), "
            f"{key('openai.server')} (now {self._own.server}) and {key('generation.model')} (now {self._model})."
            f"{advice}"
        )

    def _completion(self, request: Request, answer: Answer) -> Completion:
        prompt_tokens = len(request.prompt.ids) if answer.prompt_tokens is None else answer.prompt_tokens
        if answer.ids is not None:
            completion = self.completion(answer.ids, answer.finished, prompt_tokens, sampling=request.sampling)
        else:
            text = answer.text.removesuffix(self.tokenizer.eos)
            ids = self.tokenizer.encode([text])[0]
            completion = self.completion(ids, answer.finished, prompt_tokens, text, request.sampling)
        return replace(completion, generated_tokens=answer.generated_tokens, cached_tokens=answer.cached_tokens)
