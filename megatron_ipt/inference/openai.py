"""Engine ``openai``: servers that speak the OpenAI completions API, through the official client.

Every chain stays on one server, whose prefix cache holds its earlier texts; a new chain goes to the server with the
fewest requests. What passes (429, 5xx, timeouts, lost connections, unreadable answers) is retried with growing,
jittered pauses for ``patience`` seconds. A request that keeps failing while its server answers others is refused
alone, so that one poisonous text cannot stop a run. Every server is first asked for one token alone and its count of
prompt tokens is held against ours: a doubled BOS would otherwise spoil millions of texts unseen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from megatron_ipt.inference.engine import Completion, Engine, EngineError, Request, RequestRefused, load_library
from megatron_ipt.inference.profiles import PROFILES

if TYPE_CHECKING:
    from megatron_ipt.inference.tokenizer import PromptTokenizer
    from megatron_ipt.synthesis.config import SynthesisConfig

logger = logging.getLogger(__name__)

_WINDOW_PER_SERVER = 256
_CHAINS_PER_CLIENT = 32
_FIRST_PAUSE = 0.5
_FAILURES_BEFORE_MOVING = 3
_RETRIED_STATUS = frozenset((408, 409, 425, 429))
_STARTING_STATUS = frozenset((502, 503, 504))
_WRONG_REQUEST_STATUS = frozenset((400, 413, 422))


class _Passing(Exception):
    """A failure that may pass; ``lost`` where the server could not be reached or did not answer."""

    def __init__(self, message: str, lost: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.lost = lost
        self.wait = wait


@dataclass
class _Server:
    url: str
    clients: list[Any]
    in_flight: int = 0
    checked: bool = False
    fault: EngineError | None = None
    last_success: float = float("-inf")
    down_until: float = float("-inf")
    first: asyncio.Lock = field(default_factory=asyncio.Lock)


class OpenAIEngine(Engine):
    """See the module."""

    def __init__(self, config: SynthesisConfig, tokenizer: PromptTokenizer):
        super().__init__(config, tokenizer)
        self._settings = config.openai
        self._generation = config.generation
        self._profile = PROFILES[config.openai.server]
        self._library = load_library("openai", "openai", 'pip install "megatron-ipt[synthesis]"')
        self._servers: list[_Server] = []
        self._chains: dict[int, _Server] = {}
        self._counts: Counter[str] = Counter()
        self.window = _WINDOW_PER_SERVER * len(config.openai.base_urls)
        # The client's connection pool looks at all its connections for every request: many small pools beat one.
        in_flight = (config.generation.window or self.window) / len(config.openai.base_urls)
        self._clients = math.ceil(in_flight / _CHAINS_PER_CLIENT)

    async def __aenter__(self) -> OpenAIEngine:
        key = os.environ.get(self._settings.api_key_variable) or "none"
        for url in self._settings.base_urls:
            clients = [
                self._library.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=self._settings.timeout)
                for _ in range(self._clients)
            ]
            self._servers.append(_Server(url, clients))
        try:
            # One server suffices to begin; the others join when they answer.
            waiting = [asyncio.ensure_future(self._wait_for(server)) for server in self._servers]
            try:
                for future in asyncio.as_completed(waiting):
                    await future
                    break
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        for server in self._servers:
            for client in server.clients:
                await client.close()

    def figures(self) -> dict[str, float]:
        return {"retries": self._counts["retries"], "moved_chains": self._counts["moved_chains"]}

    def release(self, chain: int) -> None:
        self._chains.pop(chain, None)

    async def generate(self, request: Request) -> Completion:
        began: float | None = None
        failures = 0
        while True:
            server = self._server_of(request.chain)
            try:
                return await self._ask(server, request)
            except _Passing as failure:
                now = time.monotonic()
                began = now if began is None else began
                failures += 1
                self._counts["retries"] += 1
                if now - began >= self._settings.patience:
                    if server.last_success > began:
                        raise RequestRefused(
                            f"{server.url}: {failure}, {failures} times, while others succeed"
                        ) from failure
                    raise EngineError(
                        f"{server.url}: {failure}; tried {failures} times in {now - began:.0f} s "
                        "(synthesis.openai.patience). Mend the server and rerun: finished texts are kept."
                    ) from failure
                if failures == 1:
                    logger.debug("%s: %s; retrying", server.url, failure)
                if failure.lost and failures >= _FAILURES_BEFORE_MOVING:
                    self._move(request.chain, server)
                await asyncio.sleep(max(failure.wait, self._pause(failures)))

    def _pause(self, failures: int) -> float:
        longest = min(self._settings.max_backoff, _FIRST_PAUSE * 2 ** min(failures - 1, 16))
        return longest * random.uniform(0.5, 1.0)

    def _server_of(self, chain: int) -> _Server:
        server = self._chains.get(chain)
        if server is None:
            now = time.monotonic()
            up = [server for server in self._servers if server.down_until <= now] or self._servers
            server = self._chains[chain] = min(up, key=lambda candidate: candidate.in_flight)
        return server

    def _move(self, chain: int, server: _Server) -> None:
        if len(self._servers) > 1:
            server.down_until = time.monotonic() + self._settings.max_backoff
            self._chains.pop(chain, None)
            self._counts["moved_chains"] += 1

    async def _ask(self, server: _Server, request: Request) -> Completion:
        server.in_flight += 1
        try:
            if not server.checked:
                await self._probe(server, request)
            completion = await self._complete(server, request, self._generation.max_new_tokens)
            server.last_success = time.monotonic()
            return completion
        finally:
            server.in_flight -= 1

    async def _probe(self, server: _Server, request: Request) -> None:
        """Asks ``server`` for one token of its first request and checks the answer, while all others wait."""
        async with server.first:
            if server.fault is not None:
                raise server.fault
            if not server.checked:
                self._check(server, request, await self._complete(server, request, max_tokens=1))
                server.checked = True

    def _check(self, server: _Server, request: Request, completion: Completion) -> None:
        """Compares the server's count of the prompt's tokens with ours; a difference condemns the server."""
        ours, theirs = len(request.prompt.ids), completion.prompt_tokens
        if ours == theirs:
            return
        if theirs == ours + 1:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens where {ours} were sent: it adds a second BOS. Set "
                f"synthesis.openai.server to the kind of server this is (now {self._settings.server}), or start it so "
                "that it adds no special tokens."
            )
        else:
            server.fault = EngineError(
                f"{server.url}: counts {theirs} prompt tokens, we count {ours}: it uses another tokenizer than "
                f"{self.tokenizer.path}. Point synthesis.generation.tokenizer at the tokenizer of the served model."
            )
        raise server.fault

    async def _complete(self, server: _Server, request: Request, max_tokens: int) -> Completion:
        fields: dict[str, Any] = {
            "model": self._generation.model,
            "prompt": "" if self._profile.prompt_ids else request.prompt.text,
            "max_tokens": max_tokens,
            "temperature": self._generation.temperature,
        }
        extra = dict(self._profile.extra)
        if self._profile.prompt_ids:
            # As a declared argument the client would look at the type of every id: 14 ms for 900 of them.
            extra["prompt"] = request.prompt.ids
        if extra:
            fields["extra_body"] = extra
        if self._profile.samples:
            fields |= {"top_p": self._generation.top_p, "seed": request.seed}
        library = self._library
        try:
            client = server.clients[request.chain % len(server.clients)]
            answer = await client.completions.create(**fields)
        except library.APITimeoutError as error:
            raise _Passing(f"no answer within {self._settings.timeout:g} s (synthesis.openai.timeout)", True) from error
        except library.APIConnectionError as error:
            raise _Passing(f"connection failed: {error.__cause__ or error}", lost=True) from error
        except library.APIStatusError as error:
            raise self._failure(server, error) from error
        except (library.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _Passing(f"answered what is not a completion: {error}") from error
        return self._read(answer)

    def _failure(self, server: _Server, error: Any) -> Exception:
        status, message = error.status_code, _message(error)
        if status in _RETRIED_STATUS or status >= 500:
            return _Passing(f"status {status}: {message}", wait=_retry_after(error))
        if status in _WRONG_REQUEST_STATUS and server.checked:
            return RequestRefused(f"status {status}: {message}")
        return EngineError(
            f"{server.url}: status {status}: {message}. Check synthesis.openai.base_urls (ends in /v1), "
            f"synthesis.openai.server (now {self._settings.server}) and synthesis.generation.model "
            f"(now {self._generation.model})."
        )

    def _read(self, answer: Any) -> Completion:
        """The completion in an answer, whatever the server made of it: the client does not validate."""
        choices = getattr(answer, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        text = getattr(choice, "text", None)
        reason = getattr(choice, "finish_reason", None)
        usage = getattr(answer, "usage", None)
        prompt_tokens = getattr(usage, "prompt_tokens", None)
        if not isinstance(text, str) or reason not in ("stop", "length") or not isinstance(prompt_tokens, int):
            raise _Passing(f"answered what is not a completion: {str(answer)[:200]!r}")
        ids = getattr(choice, self._profile.answer_ids, None) if self._profile.answer_ids else None
        finished = reason == "stop"
        if isinstance(ids, list):
            return self.completion(ids, finished, prompt_tokens)
        text = text.removesuffix(self.tokenizer.eos)
        return self.completion(self.tokenizer.encode([text])[0], finished, prompt_tokens, text)

    async def _wait_for(self, server: _Server) -> None:
        """Returns once ``server`` answers.

        Raises:
            EngineError: it does not within ``patience``, or serves another model.
        """
        began = time.monotonic()
        failures = 0
        while True:
            try:
                models = await server.clients[0].models.list()
                break
            except (self._library.APIConnectionError, self._library.InternalServerError, json.JSONDecodeError) as error:
                if getattr(error, "status_code", 503) not in _STARTING_STATUS:
                    return
                failures += 1
                waited = time.monotonic() - began
                if waited >= self._settings.patience:
                    raise EngineError(
                        f"{server.url}: no server answers there after {waited:.0f} s: {error}. Start it, or correct "
                        "synthesis.openai.base_urls."
                    ) from error
                if failures == 1:
                    logger.info("synthesis: waiting for %s", server.url)
                await asyncio.sleep(self._pause(failures))
            except self._library.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise EngineError(
                        f"{server.url}: status {error.status_code}: {_message(error)}. Put the key into the "
                        f"environment variable {self._settings.api_key_variable} (synthesis.openai.api_key_variable)."
                    ) from error
                return
        names = [model.id for model in getattr(models, "data", None) or [] if hasattr(model, "id")]
        if self._profile.lists_model and names and self._generation.model not in names:
            raise EngineError(
                f"{server.url}: serves {', '.join(names)}, not {self._generation.model}. Correct "
                "synthesis.generation.model."
            )


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return str(body[name])[:500]
    return str(getattr(error, "message", error))[:500]


def _retry_after(error: Any) -> float:
    """Seconds that the server asks to wait, at most a minute."""
    try:
        return min(max(float(error.response.headers.get("retry-after", 0)), 0.0), 60.0)
    except ValueError:
        return 0.0
