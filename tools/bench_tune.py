"""Benchmarks ``synthesize --tune``: the window that it finds against an exhaustive sweep; prints a table.

The server is the simulated one of ``bench_synthesis.py``, with slots, a queue and a cache for the prefixes of some
chains, in this process and on a simulated clock, so that nothing depends on the speed of this machine.
The sweep keeps every window full for a while and counts the chains that end, independently of how ``--tune`` measures.

With ``--url`` it does the same with a real vLLM server, in real time: short texts and answers of at most 16 tokens,
each window of the sweep with texts of its own, so that no prompt is in the cache.

Usage: python tools/bench_tune.py [--slots N ...] [--chain-lengths M ...] [--texts N]
       python tools/bench_tune.py --url http://127.0.0.1:8000/v1 --model NAME --tokenizer FOLDER [--windows N ...]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import selectors
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
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
from megatron_ipt.inference.engines import open_engine  # noqa: E402
from megatron_ipt.inference.metering import MeteredEngine  # noqa: E402
from megatron_ipt.inference.settings import EngineSettings  # noqa: E402
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer  # noqa: E402
from megatron_ipt.inference.usage import Meter  # noqa: E402
from megatron_ipt.progress import configure_logging  # noqa: E402
from megatron_ipt.synthesis import stage  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.shard import planned  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.synthesizer import PlannedChain  # noqa: E402
from megatron_ipt.synthesis.pairs import Chain  # noqa: E402
from megatron_ipt.synthesis.speed.tune import tune, tune_text  # noqa: E402
from megatron_ipt.synthesis.spending.sample import sample_chains  # noqa: E402
from megatron_ipt.synthesis.spending.trial import Trial  # noqa: E402

Result = TypeVar("Result")
FIRST, MOST, SECONDS = 4, 1024, 300.0
PACE = 1.0
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
    """Texts, and one simulated server for them."""

    run = staticmethod(run_simulated)
    least = 200

    def __init__(self, root: Path, chain_length: int, slots: int, cached: int, texts: int):
        self.root, self.slots, self.cached = root, slots, cached
        self.config = settings(root, engine="bench_tune:SimulatedEngine", chain_length=chain_length)
        self.tokenizer = open_prompt_tokenizer(root / "tokenizer")
        self.prompts = stage.open_styles(self.config, self.tokenizer, 1)
        self.chains = self.sampled(texts)

    def sampled(self, texts: int) -> list[Chain]:
        """All chains in random order."""
        shards = sorted((self.root / f"corpus-{texts}" / "synthesis").glob("shard-*"))
        wanted = texts // self.config.chain_length
        return sample_chains(shards, 1, wanted, stage.former(self.config, self.prompts), 1e9).chains

    def engine(self) -> Engine:
        """That of a server that has seen nothing yet."""
        SimulatedEngine.server = SimulatedServer(self.slots, self.cached, PACE, str(self.root / "tokenizer"))
        return SimulatedEngine(EngineSettings.of(self.config, "synthesis"), self.tokenizer)

    def with_trial(self, work: Callable[[Trial], Coroutine[Any, Any, Result]]) -> Result:
        async def inside() -> Result:
            async with MeteredEngine(self.engine(), Meter()) as metered:
                return await work(Trial(self.config, 1, self.prompts, metered))

        return self.run(inside())

    def tuned(self) -> dict[str, Any]:
        """What ``--tune`` finds."""
        return self.with_trial(lambda trial: tune(trial, self.chains, self.prompts, FIRST, MOST, SECONDS))

    def speed(self, window: int) -> float:
        """Texts per second with a window, counted while it is full: from the end of the second window's worth of chains
        on, over four windows and at least 200 chains."""

        async def work(trial: Trial) -> float:
            ends: list[tuple[float, int]] = []
            supply = self.supply()
            counted = max(4 * window, self.least)
            clock = asyncio.get_running_loop().time

            async def one() -> None:
                while len(ends) < 2 * window + counted:
                    chain = next(supply)
                    await trial.ask(chain)
                    ends.append((clock(), len(chain.chain.examples)))

            await asyncio.gather(*(one() for _ in range(window)))
            middle = ends[2 * window - 1 : 2 * window + counted]
            return sum(texts for _, texts in middle[1:]) / (middle[-1][0] - middle[0][0])

        return self.with_trial(work)

    def supply(self) -> Iterator[PlannedChain]:
        """Chains without end. When they come again, the cache has long forgotten them."""
        return itertools.cycle(planned(enumerate(self.chains), self.prompts))


class RealBench(Bench):
    """Texts, and a real vLLM server for them."""

    run = staticmethod(asyncio.run)
    least = 40

    def __init__(self, root: Path, url: str, model: str, tokenizer: str, texts: int):
        self.root = root
        more = {"openai.base_urls": f"[{url}]", "generation.window": 128, "passage_characters": 400}
        more |= {"generation.max_new_tokens": 16, "generation.context_length": 2048, "chain_length": 1}
        self.config = settings(
            root,
            engine="openai",
            prompt="chat",
            **{"generation.model": model, "generation.tokenizer": tokenizer},
            **more,
        )
        self.prompts = stage.open_styles(self.config, open_prompt_tokenizer(tokenizer), 1)
        self.chains = self.sampled(texts)
        self._fresh = iter(planned(enumerate(self.chains[::-1]), self.prompts))

    def engine(self) -> Engine:
        return open_engine(stage.engine_settings(self.config))

    def supply(self) -> Iterator[PlannedChain]:
        """Chains that no window has had before."""
        return self._fresh


def windows(slots: int) -> list[int]:
    """A quarter of the slots to four times as many, in steps of about a quarter."""
    return sorted({max(1, round(slots * 2 ** (step / 3))) for step in range(-6, 7)})


def compare(bench: Bench, swept: Sequence[int]) -> tuple[dict[str, Any], dict[int, float], float]:
    """What tuning found, the sweep, and the speed of what was found as a fraction of the sweep's best."""
    result = bench.tuned()
    speeds = {window: bench.speed(window) for window in swept}
    found = speeds.get(result["value"]) or bench.speed(result["value"])
    return result, speeds, found / max(speeds.values())


def report(figures: Figures, label: str, bench: Bench, swept: Sequence[int]) -> None:
    result, speeds, reached = compare(bench, swept)
    best = max(speeds, key=lambda window: speeds[window])
    print(
        f"{label:<34}{result['value']:>7}{best:>15}{reached:>14.1%}{result['answers']:>9,}{result['seconds']:>6.0f} s"
        f"{len(result['tried']):>7}",
        flush=True,
    )
    if isinstance(bench, RealBench):
        print(tune_text(result))
        print("sweep, texts/s: " + ", ".join(f"{window}: {speed:.3g}" for window, speed in speeds.items()))
    figures.add(f"window found, of the best of a sweep: {label}", 100 * reached, "%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64], help="slots of the simulated server")
    parser.add_argument("--chain-lengths", type=int, nargs="+", default=[1, 2], help="texts in a chain")
    parser.add_argument("--texts", type=int, default=3000, help="number of texts")
    parser.add_argument("--url", help="of a real vLLM server")
    parser.add_argument("--model", help="name that the server knows it by")
    parser.add_argument("--tokenizer", help="folder of the model")
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16, 24, 32, 48, 64], help="of the real sweep")
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root = Path(name)
        write_tokenizer(root / "tokenizer")
        write_corpus(root / f"corpus-{arguments.texts}", root / "tokenizer", arguments.texts)
        names = f"{'server':<34}{'found':>7}{'best of sweep':>15}{'of its speed':>14}"
        print(f"{names}{'answers':>9}{'time':>8}{'tried':>7}")
        if arguments.url:
            configure_logging()
            bench = RealBench(root, arguments.url, arguments.model, arguments.tokenizer, arguments.texts)
            report(figures, f"{arguments.url}, {arguments.model}", bench, arguments.windows)
        else:
            for slots, length, share in itertools.product(arguments.slots, arguments.chain_lengths, (1, 0)):
                bench = Bench(root, length, slots, slots * share, arguments.texts)
                label = f"{slots} slots, M = {length}, {'prefix cache' if share else 'no cache'}"
                report(figures, label, bench, windows(slots))
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
