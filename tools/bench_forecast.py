"""Benchmarks ``synthesize --forecast``: what it says before a run against what the run then uses; prints a table.

The engine answers at once, with one to eight pairs depending on the text, and counts tokens as a server with a prefix
cache does. The forecast asks about a sample; then the stage is run to its end and its ledger is read.

Usage: python tools/bench_forecast.py [--texts N] [--chain-lengths M ...] [--seeds S ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from bench_synthesis import answer_of, settings, write_tokenizer  # noqa: E402
from benchmark_table import Figures, add_option  # noqa: E402

from megatron_ipt.files import atomic_jsonl, shard_name, write_json  # noqa: E402
from megatron_ipt.inference.engine import Completion, Engine, Request  # noqa: E402
from megatron_ipt.manifest import StageContext  # noqa: E402
from megatron_ipt.stages import DOCUMENTS  # noqa: E402
from megatron_ipt.synthesis import actions, stage  # noqa: E402

SHARDS = 8
PRICES = {"price.input": 0.5, "price.cached_input": 0.1, "price.output": 1.5}
CACHE_BLOCK = 16
CACHED_CHAINS = 256
WORDS = 3000


class VariedEngine(Engine):
    """One to eight pairs for a text, few more often than many, and none for one text in twenty."""

    window = 64

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self._answers = [tokenizer.encode([answer_of(count)])[0] if count else [] for count in range(9)]
        self._prefixes: OrderedDict[int, int] = OrderedDict()

    async def generate(self, request: Request) -> Completion:
        ids = request.prompt.ids
        # The answer depends only on the text, which ends the prompt.
        draw = random.Random(hash(tuple(ids[-30:])))
        count = 0 if draw.random() < 0.05 else min(draw.randint(1, 8), draw.randint(1, 8))
        answer = self._answers[count]
        cached = min(self._prefixes.get(request.chain, 0), len(ids)) // CACHE_BLOCK * CACHE_BLOCK
        self._prefixes[request.chain] = len(ids) + len(answer)
        while len(self._prefixes) > CACHED_CHAINS:
            self._prefixes.popitem(last=False)
        completion = self.completion([*answer, self.tokenizer.eos_id], True, len(ids))
        return dataclasses.replace(completion, cached_tokens=cached)


def write_short_texts(folder: Path, texts: int, seed: int) -> Path:
    """Texts of 10 to 300 words, short ones more often. They grow from shard to shard, so that order matters."""
    choose = random.Random(seed)
    start, middle, end = "bcdfghklmnprst", "aeiou", "lmnrst"
    words = [f"{choose.choice(start)}{choose.choice(middle)}{choose.choice(end)}{number}" for number in range(WORDS)]
    number = 0
    for shard in range(SHARDS):
        with atomic_jsonl(folder / "synthesis" / shard_name(shard, "zst")) as writer:
            for _ in range(texts // SHARDS):
                length = min(300, 10 + int(choose.expovariate(1 / (20 + 10 * shard))))
                text = " ".join(choose.choices(words, k=length))
                writer.write({"id": f"d{number}", "text": text, "split": "train"})
                number += 1
    write_json(folder / "manifest.json", {"counts": {"synthesis_documents": number}})
    return folder


def measure(
    root: Path, corpus: Path, chain_length: int, seed: int, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The forecast, and what the run after it used, without what the forecast itself had used."""
    config = settings(root, engine=f"{Path(__file__).stem}:VariedEngine", chain_length=chain_length, **PRICES)
    directory = Path(tempfile.mkdtemp(dir=root))
    context = StageContext("synthesis", directory / "forecast", seed, {DOCUMENTS: corpus})
    forecast = actions.forecast(config, context)
    run = stage.run(config, dataclasses.replace(context, directory=directory / "run"))
    return forecast, run["usage"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="number of texts")
    parser.add_argument("--chain-lengths", type=int, nargs="+", default=[1, 2], help="texts in a chain")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the recipe")
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root = Path(name)
        write_tokenizer(root / "tokenizer")
        corpus = write_short_texts(root / "corpus", arguments.texts, 1)
        print(f"{'M':>3}{'seed':>6}{'asked':>8}{'forecast':>11}{'interval':>10}{'used':>11}{'error':>9}")
        worst = 0.0
        for length in arguments.chain_lengths:
            for seed in arguments.seeds:
                forecast, used = measure(root, corpus, length, seed)
                error = forecast["cost"] / used["cost"] - 1
                worst = max(worst, abs(error))
                print(
                    f"{length:>3}{seed:>6}{forecast['asked_texts']:>8,}{forecast['cost']:>11.4f}"
                    f"{forecast['cost_half_width'] / forecast['cost']:>10.1%}{used['cost']:>11.4f}{error:>9.1%}",
                    flush=True,
                )
        figures.add(f"forecast of the cost of {arguments.texts:,} texts, largest error", 100 * worst, "%")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
