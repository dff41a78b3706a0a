"""A limit on requests in flight that lets the deepest level of the tree go first.

Disciplines are thus finished one after the other instead of all at the end, a model that writes no JSON is found out
after its first lists, and the questions of a subject follow each other while its syllabus is in the engine's cache.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """At most ``limit`` at a time; of those that wait, the highest ``rank`` goes first, then who came first."""

    def __init__(self, limit: int):
        self._free = limit
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def held(self, rank: int) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (-rank, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                # Cancelled after it was given the place.
                if turn.done() and not turn.cancelled():
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                # The place passes on.
                turn.set_result(None)
                return
        self._free += 1
