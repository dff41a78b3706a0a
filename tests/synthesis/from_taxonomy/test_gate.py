"""The limit on requests in flight: never exceeded, deepest first, and no place is lost."""

from __future__ import annotations

import asyncio
import random

from megatron_ipt.synthesis.from_taxonomy.gate import Gate


def test_the_highest_rank_goes_first_then_who_came_first() -> None:
    order: list[str] = []

    async def one(gate: Gate, rank: int, name: str) -> None:
        async with gate.held(rank):
            order.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        gate = Gate(1)
        await asyncio.gather(
            *(one(gate, rank, name) for rank, name in ((0, "a"), (0, "b"), (2, "c"), (1, "d"), (2, "e")))
        )

    asyncio.run(main())
    assert order == ["a", "c", "e", "d", "b"]


def test_cancelled_waiters_lose_no_place() -> None:
    choose = random.Random(4)
    now = most = 0

    async def one(gate: Gate) -> None:
        nonlocal now, most
        async with gate.held(choose.randrange(3)):
            now += 1
            most = max(most, now)
            try:
                await asyncio.sleep(choose.uniform(0, 0.002))
            finally:
                now -= 1

    async def main() -> None:
        gate = Gate(3)
        for _ in range(20):
            tasks = [asyncio.create_task(one(gate)) for _ in range(20)]
            await asyncio.sleep(choose.uniform(0, 0.004))
            for task in choose.sample(tasks, 8):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # All three places are free.
        async with gate.held(0), gate.held(0), gate.held(0):
            assert gate._free == 0
        assert gate._free == 3

    asyncio.run(main())
    assert (most, now) == (3, 0)
