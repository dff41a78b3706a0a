"""Many requests through one engine from ordinary code: a script, a notebook, a test.

Stages drive engines themselves, with journals and progress. Here a list goes in and a list in the same order comes out;
as many requests are in flight as keep the engine busy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from megatron_ipt.inference.engine import Completion, Engine, Request
from megatron_ipt.inference.scoring import Score, ScoreRequest

Asked = TypeVar("Asked")
Result = TypeVar("Result")


def generate_all(engine: Engine, requests: Iterable[Request], window: int | None = None) -> list[Completion]:
    """Continues every prompt; completions in the order of ``requests``.

    Args:
        engine: not entered; it is loaded at the beginning and released at the end.
        requests: read as they are needed.
        window: requests in flight; by default what keeps the engine busy.

    Raises:
        RequestRefused: of the first request that the engine refuses.
        UserError: see :meth:`.engine.Engine.generate`.
    """
    return run_coroutine(_all(engine, engine.generate, requests, window or engine.window))


def score_all(engine: Engine, requests: Iterable[ScoreRequest], window: int | None = None) -> list[Score]:
    """Scores every text; scores in the order of ``requests``.

    Args:
        engine: not entered; it is loaded at the beginning and released at the end.
        requests: read as they are needed.
        window: requests in flight; by default what keeps the engine busy.

    Raises:
        RequestRefused: of the first request that the engine refuses.
        UserError: see :meth:`.engine.Engine.score`.
    """
    return run_coroutine(_all(engine, engine.score, requests, window or engine.score_window))


async def _all(
    engine: Engine, ask: Callable[[Asked], Awaitable[Result]], requests: Iterable[Asked], window: int
) -> list[Result]:
    async with engine:
        return await in_order(ask, requests, window)


async def in_order(ask: Callable[[Asked], Awaitable[Result]], items: Iterable[Asked], window: int) -> list[Result]:
    """What ``ask`` returns for each of ``items``, in their order, ``window`` of them at a time.

    Raises:
        Exception: the first failure; what is still in flight is cancelled.
    """
    results: dict[int, Result] = {}
    numbered: Iterator[tuple[int, Asked]] = enumerate(items)

    async def work() -> None:
        for number, item in numbered:
            results[number] = await ask(item)

    workers = [asyncio.ensure_future(work()) for _ in range(window)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in range(len(results))]


async def beside(main: Coroutine[Any, Any, Result], *periodic: tuple[float, Callable[[], object]]) -> Result:
    """Runs ``main``, and beside it each function of ``periodic`` every so many seconds; they may be coroutines.

    Raises:
        Exception: of whichever fails first; the others are cancelled.
    """

    async def every(seconds: float, work: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(seconds)
            result = work()
            if asyncio.iscoroutine(result):
                await result

    work = asyncio.ensure_future(main)
    tasks = [work, *(asyncio.ensure_future(every(*entry)) for entry in periodic)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            if not (task is work and task.done()):
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results[1:]:
        if isinstance(result, Exception):
            raise result
    return work.result()


async def in_thread(work: Callable[..., Result], *arguments: Any) -> Result:
    """``work(*arguments)`` in a thread, which cannot be cancelled: this ends when it does, whoever cancels it."""
    running = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])


def run_coroutine(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs ``work`` to its end, in a thread of its own where this one has an event loop already, as notebooks do."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
