"""Processes shards, in this process or in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.extensions import load_registered_extensions

Shard = TypeVar("Shard")
Result = TypeVar("Result")


def share_of(shards: Sequence[Shard], share: tuple[int, int] | None) -> list[Shard]:
    """The shards of process ``i`` of ``N``: every N-th one, starting at index i. All of them if ``share`` is None.

    Raises:
        RecipeError: i is not in [0, N).
    """
    if share is None:
        return list(shards)
    index, count = share
    if not 0 <= index < count:
        raise RecipeError(f"--shard {index}/{count}: expected i/N with 0 <= i < N, e.g. 0/8 to 7/8")
    return list(shards[index::count])


def map_shards(
    work: Callable[..., Result], shards: Sequence[Shard], arguments: tuple[Any, ...], workers: int
) -> Iterator[tuple[Shard, Result]]:
    """Yields (shard, ``work(shard, *arguments)``) as shards finish.

    Args:
        work: a module-level function. Processes are spawned, not forked, because libraries with threads break after a
            fork.
        shards: the shards, in order.
        arguments: further arguments of ``work``, the same for all shards.
        workers: number of processes; 1 runs in this process, in order.

    Raises:
        StageError: a worker process died.
        Exception: any exception from ``work``; shards that have not started are cancelled.
    """
    if min(workers, len(shards)) <= 1:
        for shard in shards:
            yield shard, work(shard, *arguments)
        return
    spawn = multiprocessing.get_context("spawn")
    processes = min(workers, len(shards))
    with ProcessPoolExecutor(processes, spawn, load_registered_extensions) as pool:
        futures = {pool.submit(work, shard, *arguments): shard for shard in shards}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise StageError(
                "a worker process died (killed, or out of memory); finished shards are kept, rerun the same command "
                "to resume. If it dies again, use fewer workers."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
