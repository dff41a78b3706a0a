"""The servers behind the engine ``openai``: which one a chain goes to, and whether each is up and the right one.

Every chain stays on one server, whose prefix cache holds its earlier requests; a new chain goes to the server with the
fewest requests. A server that cannot be reached is avoided for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ipt.inference.config import OpenAIConfig
from megatron_ipt.inference.engine import EngineError
from megatron_ipt.inference.openai.answers import error_message
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
    """

    url: str
    clients: list[Any]
    in_flight: int = 0
    checked: bool = False
    fault: EngineError | None = None
    last_success: float = float("-inf")
    down_until: float = float("-inf")
    first: asyncio.Lock = field(default_factory=asyncio.Lock)


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
        self.servers: list[Server] = []

    async def connect(self, key: str, model: str | None) -> None:
        """Returns once one server answers; the others join when they do.

        Args:
            key: for the servers.
            model: that each must list; None where servers list none.

        Raises:
            EngineError: none answers within ``patience``, or one serves another model.
        """
        for url in self._own.base_urls:
            clients = [
                self._library.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=self._own.timeout)
                for _ in range(self._clients)
            ]
            self.servers.append(Server(url, clients))
        waiting = [asyncio.ensure_future(self._wait_for(server, model)) for server in self.servers]
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

    async def _wait_for(self, server: Server, model: str | None) -> None:
        """Returns once ``server`` answers.

        Raises:
            EngineError: it does not within ``patience``, or serves another model.
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
        names = [entry.id for entry in getattr(models, "data", None) or [] if hasattr(entry, "id")]
        if model is not None and names and model not in names:
            raise EngineError(
                f"{server.url}: serves {', '.join(names)}, not {model}. Correct {key('generation.model')}."
            )
