"""The servers behind the engine ``openai``: which one a chain goes to, and whether each is up and the right one.

Every chain stays on one server, whose prefix cache holds its earlier requests; a new chain goes to the server with the
fewest requests. A server that cannot be reached is avoided for a while. What a server says about its models is read
before it gets its first request: whether the model is there, and how long a prompt may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import EngineError
from megatron_ipt.inference.openai.answers import error_message, printable
from megatron_ipt.inference.openai.outage import Outage
from megatron_ipt.inference.settings import EngineSettings

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_STARTING_STATUS = frozenset((502, 503, 504))


@dataclass
class Server:
    """One server.

    Attributes:
        url: its address.
        clients: several, because the pool of one client looks at all its connections for every request.
        in_flight: requests that it works on.
        checked: its first answer was right.
        fault: what was wrong with its first answer.
        last_success: when it last answered, by the monotonic clock.
        down_until: new chains avoid it until then.
        first: held while its first answer is checked.
        outage: logs when it fails and when it is back.
        listed: what it says about its models was read.
        owner: ``owned_by`` of its models, by which some kinds of server are known.
        merges_system: it takes no system messages, so their text is put in front of the first message.
    """

    url: str
    clients: list[Any]
    outage: Outage
    in_flight: int = 0
    checked: bool = False
    fault: EngineError | None = None
    last_success: float = float("-inf")
    down_until: float = float("-inf")
    first: asyncio.Lock = field(default_factory=asyncio.Lock)
    listed: bool = False
    owner: str = ""
    merges_system: bool = False


class ServerPool:
    """Servers of one and the same model.

    Args:
        settings: of the engine.
        own: its section ``openai``.
        library: the module ``openai``.
        clients: per server.
    """

    def __init__(self, settings: EngineSettings, own: OpenAIConfig, library: Any, clients: int):
        self._settings = settings
        self._own = own
        self._library = library
        self._clients = clients
        self._chains: dict[int, Server] = {}
        self._model: str | None = None
        self.servers: list[Server] = []

    async def connect(self, key: str, model: str | None) -> None:
        """Returns once one server answers; the others join when they do.

        Args:
            key: for the servers.
            model: that each must list; None where servers list none.

        Raises:
            EngineError: none answers within ``patience``, or one serves another model.
            RecipeError: ``generation.context_length`` is more than it serves.
        """
        for url in self._own.base_urls:
            clients = [
                self._library.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=self._own.timeout)
                for _ in range(self._clients)
            ]
            self.servers.append(Server(url, clients, Outage(url, self._own.patience)))
        self._model = model
        waiting = [asyncio.ensure_future(self._wait_for(server)) for server in self.servers]
        try:
            for future in asyncio.as_completed(waiting):
                await future
                break
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        for server in self.servers:
            for client in server.clients:
                await client.close()

    def server_of(self, chain: int) -> Server:
        """The server that ``chain`` stays on."""
        server = self._chains.get(chain)
        if server is None:
            now = time.monotonic()
            up: Sequence[Server] = [server for server in self.servers if server.down_until <= now] or self.servers
            server = self._chains[chain] = min(up, key=lambda candidate: candidate.in_flight)
        return server

    def move(self, chain: int, server: Server) -> bool:
        """Lets ``chain`` leave a server that cannot be reached; False where there is no other."""
        if len(self.servers) == 1:
            return False
        server.down_until = time.monotonic() + self._own.max_backoff
        self._chains.pop(chain, None)
        return True

    def release(self, chain: int) -> None:
        self._chains.pop(chain, None)

    def pause(self, failures: int) -> float:
        """Seconds to wait after ``failures`` failures in a row: growing, jittered."""
        longest = min(self._own.max_backoff, _FIRST_PAUSE * 2 ** min(failures - 1, 16))
        return longest * random.uniform(0.5, 1.0)

    async def look_at(self, server: Server) -> None:
        """Reads what a server says about its models, unless this was done when it was waited for.

        Raises:
            EngineError: it serves another model.
            RecipeError: ``generation.context_length`` is more than it serves.
        """
        if not server.listed:
            # Its requests tell what is wrong with a server that does not list its models.
            with contextlib.suppress(self._library.APIError, json.JSONDecodeError):
                self._read_models(server, await server.clients[0].models.list())

    async def _wait_for(self, server: Server) -> None:
        """Returns once ``server`` answers.

        Raises:
            EngineError: it does not within ``patience``, or serves another model.
            RecipeError: ``generation.context_length`` is more than it serves.
        """
        key = self._settings.key
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
                if waited >= self._own.patience:
                    raise EngineError(
                        f"{server.url}: no server answers after {waited:.0f} s: {error}. Start it, or correct "
                        f"{key('openai.base_urls')}."
                    ) from error
                if failures == 1:
                    logger.info("waiting for the server at %s", server.url)
                await asyncio.sleep(self.pause(failures))
            except self._library.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise EngineError(
                        f"{server.url}: status {error.status_code}: {error_message(error)}. Put the key into the "
                        f"environment variable {self._own.api_key_variable} ({key('openai.api_key_variable')})."
                    ) from error
                return
        self._read_models(server, models)

    def _read_models(self, server: Server, models: Any) -> None:
        key = self._settings.key
        server.listed = True
        entries = {entry.id: entry for entry in getattr(models, "data", None) or [] if hasattr(entry, "id")}
        if self._model is not None and entries and self._model not in entries:
            names = printable(", ".join(map(str, entries)))
            raise EngineError(f"{server.url}: serves {names}, not {self._model}. Correct {key('generation.model')}.")
        generation = self._settings.generation
        only = next(iter(entries.values())) if len(entries) == 1 else None
        entry = entries.get(generation.model, only)
        server.owner = str(getattr(entry, "owned_by", ""))
        limit = _context_of(entry)
        if limit is not None and generation.context_length > limit:
            raise RecipeError(
                f"{key('generation.context_length')}: {generation.context_length:,} is more than the {limit:,} tokens "
                f"that {server.url} serves. Lower the key, or start the server with a longer context."
            )


def _context_of(entry: Any) -> int | None:
    """Tokens of prompt and answer together that a server states for a model; None where it does not say.

    vLLM: ``max_model_len``. llama.cpp: ``meta.n_ctx``, what one of its slots holds; older versions state only
    ``n_ctx_train``, what the model was trained on.
    """
    meta = getattr(entry, "meta", None)
    meta = meta if isinstance(meta, dict) else {}
    found = (getattr(entry, "max_model_len", None), meta.get("n_ctx"), meta.get("n_ctx_train"))
    limits = [limit for limit in found if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0]
    return min(limits, default=None)
