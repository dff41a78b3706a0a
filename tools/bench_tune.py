"""Benchmarks ``synthesize --tune``: the window that it finds against an exhaustive sweep; prints a table.

The server is the simulated one of ``bench_synthesis.py``, with slots, a queue and a cache for the prefixes of some
chains, in this process and on a simulated clock, so that nothing depends on the speed of this machine.
The sweep lets every window work through the same number of chains and counts those that end between the first and the
last quarter, independently of how ``--tune`` measures.

Usage: python tools/bench_tune.py [--slots N ...] [--chain-lengths M ...] [--chains N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import selectors
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from bench_synthesis import (  # noqa: E402
    SimulatedServer,
    settings,
    write_corpus,
    write_tokenizer,
)
from benchmark_table import Figures, add_option  # noqa: E402

from megatron_ipt.inference.engine import Completion, Engine, Request  # noqa: E402
from megatron_ipt.inference.metering import MeteredEngine  # noqa: E402
from megatron_ipt.inference.settings import EngineSettings  # noqa: E402
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer  # noqa: E402
from megatron_ipt.inference.usage import Meter  # noqa: E402
from megatron_ipt.synthesis.pairs import Chain  # noqa: E402
from megatron_ipt.synthesis.speed.tune import tune  # noqa: E402
from megatron_ipt.synthesis.spending.sample import chains_of_shard, planned, sample_chains  # noqa: E402
from megatron_ipt.synthesis.spending.trial import Trial  # noqa: E402
from megatron_ipt.synthesis.stage import open_styles  # noqa: E402

Result = TypeVar("Result")
FIRST, MOST, SECONDS = 4, 1024, 300.0
PACE = 2.0
"""Slowdown of the simulated server relative to an H100."""


class _Selector(selectors.DefaultSelector):
    """Does not wait while there is a time to wait for, but moves the clock on to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class SimulatedClock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_simulated(work: Coroutine[Any, Any, Result]) -> Result:
    with contextlib.closing(SimulatedClock()) as loop:
        return loop.run_until_complete(work)


class SimulatedEngine(Engine):
    """An engine that is the simulated server."""

    window = 256
    server: ClassVar[SimulatedServer]

    async def generate(self, request: Request) -> Completion:
        body = {"prompt": request.prompt.ids, "max_tokens": request.sampling.max_new_tokens, "model": "simulated"}
        answer = await self.server.complete(body)
        return self.completion(answer["choices"][0]["token_ids"], True, len(request.prompt.ids))


class Bench:
    """One simulated server and the texts for it."""

    def __init__(self, root: Path, chain_length: int, slots: int, cached: int, texts: int):
        self.root, self.slots, self.cached = root, slots, cached
        self.config = settings(root, engine="bench_tune:SimulatedEngine", chain_length=chain_length)
        self.tokenizer = open_prompt_tokenizer(root / "tokenizer")
        self.prompts = open_styles(self.config, self.tokenizer, 1)
        shards = sorted((root / f"corpus-{texts}" / "synthesis").glob("shard-*"))

        def form(path: Path) -> list[Chain]:
            return chains_of_shard(path, self.prompts, chain_length, self.config.passage_characters)

        self.chains = sample_chains(shards, 1, texts // chain_length, form, 1e9).chains

    def trial(self) -> Trial:
        """With a server that has seen nothing yet."""
        SimulatedEngine.server = SimulatedServer(self.slots, self.cached, PACE, str(self.root / "tokenizer"))
        engine = SimulatedEngine(EngineSettings.of(self.config, "synthesis"), self.tokenizer)
        return Trial(self.config, 1, self.prompts, MeteredEngine(engine, Meter()))

    def tuned(self) -> dict[str, Any]:
        """What ``--tune`` finds."""

        async def work() -> dict[str, Any]:
            return await tune(self.trial(), self.chains, self.prompts, FIRST, MOST, SECONDS)

        return run_simulated(work())

    def speed(self, window: int) -> float:
        """Texts per second with a window, counted over the middle half of a run through all chains."""

        async def work() -> float:
            trial = self.trial()
            chains = planned(self.chains, self.prompts)
            ends: list[tuple[float, int]] = []
            numbered: Iterator[Any] = iter(chains)
            clock = asyncio.get_running_loop().time

            async def one() -> None:
                for chain in numbered:
                    await trial.ask(chain)
                    ends.append((clock(), len(chain.chain.examples)))

            await asyncio.gather(*(one() for _ in range(window)))
            middle = ends[len(ends) // 4 : len(ends) - window - 1]
            return sum(texts for _, texts in middle[1:]) / (middle[-1][0] - middle[0][0])

        return run_simulated(work())


def windows(slots: int) -> list[int]:
    """A quarter of the slots to four times as many, in steps of about a quarter."""
    return sorted({max(1, round(slots * 2 ** (step / 3))) for step in range(-6, 7)})


def compare(bench: Bench, swept: Sequence[int]) -> tuple[dict[str, Any], dict[int, float], float]:
    """What tuning found, the sweep, and the speed of what was found as a fraction of the sweep's best."""
    result = bench.tuned()
    speeds = {window: bench.speed(window) for window in swept}
    found = bench.speed(result["value"])
    return result, speeds, found / max(speeds.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64], help="slots of the simulated server")
    parser.add_argument("--chain-lengths", type=int, nargs="+", default=[1, 2], help="texts in a chain")
    parser.add_argument("--texts", type=int, default=3000, help="number of texts")
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root = Path(name)
        write_tokenizer(root / "tokenizer")
        write_corpus(root / f"corpus-{arguments.texts}", root / "tokenizer", arguments.texts)
        print(
            f"{'slots':>6}{'M':>4}{'cache':>7}{'found':>7}{'best of sweep':>15}{'of its speed':>14}{'answers':>9}",
            end="",
        )
        print(f"{'simulated time':>16}{'tried':>7}")
        for slots, length, share in itertools.product(arguments.slots, arguments.chain_lengths, (1, 0)):
            bench = Bench(root, length, slots, slots * share, arguments.texts)
            result, speeds, reached = compare(bench, windows(slots))
            best = max(speeds, key=lambda window: speeds[window])
            print(
                f"{slots:>6}{length:>4}{slots * share:>7}{result['value']:>7}{best:>15}{reached:>14.1%}"
                f"{result['answers']:>9,}{result['seconds']:>14.0f} s{len(result['tried']):>7}",
                flush=True,
            )
            label = f"{slots} slots, M = {length}, {'prefix cache' if share else 'no cache'}"
            figures.add(f"window found, of the best of a sweep: {label}", 100 * reached, "%")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
