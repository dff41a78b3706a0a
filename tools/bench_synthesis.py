"""Benchmarks synthesis; prints a table.

``chains``: wall time of 512 texts in chains of two on a simulated server, against a plain round-by-round loop on the
same server. The server has a fixed number of slots, takes as long as an 8B model on one H100 would according to
published measurements, and caches the prefixes of as many chains as it has slots. Output lengths vary. Reported with
and without that cache.

``throughput``: texts per second of one process with an instant engine: reading, splitting, tokenizing, parsing,
filters, journal and final files. ``memory``: its peak memory for several corpus sizes.

Usage: python tools/bench_synthesis.py [chains] [throughput] [memory] [--texts N ...] [--slots N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figures, add_option  # noqa: E402

from megatron_ipt.config import load  # noqa: E402
from megatron_ipt.files import atomic_jsonl, shard_name  # noqa: E402
from megatron_ipt.inference.engine import Completion, Engine, Request  # noqa: E402
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer  # noqa: E402
from megatron_ipt.manifest import StageContext  # noqa: E402
from megatron_ipt.stages import DOCUMENTS  # noqa: E402
from megatron_ipt.synthesis import stage  # noqa: E402
from megatron_ipt.synthesis.config import SynthesisConfig  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.marks import render_pairs  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer  # noqa: E402
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat  # noqa: E402
from megatron_ipt.synthesis.pairs import Pair  # noqa: E402

TEXT_TOKENS = 500
CONTEXT, MAX_NEW_TOKENS = 4096, 400
SHARD_TEXTS = 10_000
PAIRS_PER_TEXT = (1, 3, 4, 5, 5, 5, 6, 6, 7, 7)
"""Output lengths of the simulated model, in pairs of about 52 tokens: mean 4.9."""


def write_tokenizer(folder: Path) -> None:
    """Writes a byte-level BPE tokenizer with 8,000 tokens, trained on the examples and this package."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(sample_paragraphs(), trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def sample_paragraphs() -> list[str]:
    """Paragraphs of prose and code to build texts from."""
    files = [*(REPOSITORY / "examples").rglob("*.txt"), *(REPOSITORY / "examples").rglob("*.md")]
    files += sorted((REPOSITORY / "megatron_ipt").rglob("*.py"))
    paragraphs = [part.strip() for path in files for part in path.read_text().split("\n\n")]
    return [part for part in paragraphs if len(part) > 80]


def write_corpus(folder: Path, tokenizer_folder: Path, texts: int) -> Path:
    """Writes ``texts`` documents of about TEXT_TOKENS tokens each, like the corpus stage."""
    choose = random.Random(1)
    paragraphs = sample_paragraphs()
    lengths = [len(ids) for ids in open_prompt_tokenizer(tokenizer_folder).encode(paragraphs)]
    for start in range(0, texts, SHARD_TEXTS):
        with atomic_jsonl(folder / "synthesis" / shard_name(start // SHARD_TEXTS, "zst")) as writer:
            for number in range(start, min(start + SHARD_TEXTS, texts)):
                parts, tokens = [f"Text {number}."], 0
                while tokens < TEXT_TOKENS - 50:
                    index = choose.randrange(len(paragraphs))
                    if tokens + lengths[index] < TEXT_TOKENS + 50:
                        parts.append(paragraphs[index])
                        tokens += lengths[index]
                writer.write({"id": f"d{number}", "text": "\n\n".join(parts), "split": "train"})
    (folder / "manifest.json").write_text(json.dumps({"counts": {"synthesis_documents": texts}}))
    return folder


def answer_of(count: int) -> str:
    """``count`` pairs of about 52 tokens each."""
    detail = "it says that the tail of the comet always points away from the sun, whatever way the comet itself travels"
    return render_pairs(
        [Pair(f"What does part {n} of this text say about the comet?", f"{detail}, {n}.") for n in range(count)]
    )


def settings(folder: Path, **more: Any) -> SynthesisConfig:
    values = {
        "generation.model": folder / "tokenizer",
        "generation.context_length": CONTEXT,
        "generation.max_new_tokens": MAX_NEW_TOKENS,
        "chain_length": 2,
        "passage_characters": 100_000,
    } | more
    return load(SynthesisConfig, None, [f"{name}={value}" for name, value in values.items()])


class InstantEngine(Engine):
    """Answers immediately with five pairs."""

    window = 256

    def __init__(self, settings: Any, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self._text = answer_of(5)
        self._ids = tokenizer.encode([self._text])[0]

    async def generate(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        return self.completion(self._ids, True, len(request.prompt.ids), self._text)


def run_instant(root: str, texts: int, results: Any) -> None:
    folder = Path(root)
    config = settings(folder, engine=f"{Path(__file__).stem}:InstantEngine")
    directory = Path(tempfile.mkdtemp(dir=folder))
    context = StageContext("synthesis", directory, 1, {DOCUMENTS: folder / f"corpus-{texts}"}, compression="zst")
    start, used = time.monotonic(), time.process_time()
    counts = stage.run(config, context)
    seconds, used = time.monotonic() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put({"seconds": seconds, "processor": used, "peak_mib": peak, "counts": counts})


def measure_instant(root: Path, texts: int) -> dict[str, Any]:
    if not (root / f"corpus-{texts}").exists():
        write_corpus(root / f"corpus-{texts}", root / "tokenizer", texts)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=run_instant, args=(str(root), texts, results))
    process.start()
    result: dict[str, Any] = results.get()
    process.join()
    return result


class SimulatedServer:
    """A server with slots, a queue and realistic latencies, and a completions API with token ids."""

    def __init__(self, slots: int, cached_chains: int, pace: float, tokenizer_folder: str):
        tokenizer = open_prompt_tokenizer(tokenizer_folder)
        self._slots = asyncio.Semaphore(slots)
        self._count = slots
        self._pace = pace
        self._cached = cached_chains
        self._cache: OrderedDict[tuple[int, ...], list[int]] = OrderedDict()
        self._answers = {n: tokenizer.encode([answer_of(n)])[0] for n in set(PAIRS_PER_TEXT)}
        self._eos = tokenizer.eos_id
        self._busy: list[tuple[float, int]] = []
        self._now = 0

    def statistics(self) -> dict[str, float]:
        """Fraction of slot time used from the first request to the last moment when all slots were busy."""
        full = [index for index, (_, busy) in enumerate(self._busy) if busy == self._count]
        last = full[-1] + 1 if full else len(self._busy) - 1
        used = sum(busy * (self._busy[i + 1][0] - t) for i, (t, busy) in enumerate(self._busy[:last]))
        span = self._busy[last][0] - self._busy[0][0]
        return {"busy": used / (span * self._count), "drain": self._busy[-1][0] - self._busy[last][0]}

    def _change(self, step: int) -> None:
        self._now += step
        # The clock of the loop, which may be a simulated one.
        self._busy.append((asyncio.get_running_loop().time(), self._now))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        # The length of an answer depends only on its text.
        seed = hash(tuple(prompt[-40:]))
        answer = self._answers[random.Random(seed).choice(PAIRS_PER_TEXT)][: body["max_tokens"]]
        async with self._slots:
            self._change(1)
            new, all_tokens, generated = len(prompt) - self._known(prompt), len(prompt), len(answer)
            # Seconds of one H100 per request, shared by all slots. Fitted to published TensorRT-LLM measurements.
            seconds = 13.8e-6 * new + 13.4e-6 * generated + 0.026e-6 * generated * (all_tokens + generated / 2)
            await asyncio.sleep(seconds * self._pace * self._count)
            self._remember([*prompt, *answer])
            self._change(-1)
        return {
            "id": "c", "object": "text_completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "text": "", "finish_reason": "stop", "token_ids": [*answer, self._eos]}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(answer), "total_tokens": 0},
        }  # fmt: skip

    def _known(self, prompt: list[int]) -> int:
        """Number of leading tokens of ``prompt`` in the cache."""
        earlier = self._cache.get(tuple(prompt[:32]))
        if earlier is None:
            return 0
        self._cache.move_to_end(tuple(prompt[:32]))
        same = next((i for i, (a, b) in enumerate(zip(earlier, prompt)) if a != b), min(len(earlier), len(prompt)))
        return same // 32 * 32

    def _remember(self, ids: list[int]) -> None:
        self._cache[tuple(ids[:32])] = ids
        self._cache.move_to_end(tuple(ids[:32]))
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if b"/models" in lines[0]:
                    answer: Any = {"object": "list", "data": [{"id": "simulated", "object": "model"}]}
                elif b"/statistics" in lines[0]:
                    answer = self.statistics()
                else:
                    answer = await self.complete(json.loads(body))
                data = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
                )
                writer.write(data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def run_server(slots: int, cached: int, pace: float, tokenizer_folder: str, ports: Any) -> None:
    async def main() -> None:
        server = await asyncio.start_server(
            SimulatedServer(slots, cached, pace, tokenizer_folder).serve, "127.0.0.1", 0, limit=1 << 22
        )
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def round_by_round(url: str, corpus: Path, tokenizer_folder: Path) -> int:
    """Like the public reference scripts: every round requests one text of each chain and waits for all of them."""
    import openai

    tokenizer = open_prompt_tokenizer(tokenizer_folder)
    prompts = PromptFormat(tokenizer, CONTEXT, MAX_NEW_TOKENS)
    texts = [record["text"] for path in stage.list_shards(corpus / "synthesis") for record in stage.read_jsonl(path)]
    encoded = prompts.encode_texts(texts)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    chains = len(texts) // 2
    pairs = 0
    asked = [prompts.begin(text) for text in encoded[:chains]]
    for number in range(2):
        answers = await asyncio.gather(
            *(
                client.completions.create(
                    model="simulated", prompt=prompt.ids, max_tokens=MAX_NEW_TOKENS, temperature=0
                )
                for prompt in asked
            )
        )
        generated = [answer.choices[0].token_ids[:-1] for answer in answers]
        written = [tokenizer.decode(ids) for ids in generated]
        pairs += sum(len(parse_answer(text)[0]) for text in written)
        if number == 0:
            asked = [prompts.follow(*parts) for parts in zip(asked, generated, written, encoded[chains:])]
    await client.close()
    return pairs


def measure_chains(root: Path, texts: int, slots: int, cached: int, pace: float, ours: bool) -> dict[str, float]:
    """Seconds for the whole corpus, and the server's statistics."""
    import urllib.request

    spawn = multiprocessing.get_context("spawn")
    ports = spawn.Queue()
    server = spawn.Process(target=run_server, args=(slots, cached, pace, str(root / "tokenizer"), ports), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}/v1"
    corpus = root / f"corpus-{texts}"
    try:
        start = time.monotonic()
        if ours:
            more = {
                "generation.model": "simulated",
                "generation.tokenizer": root / "tokenizer",
                "openai.server": "vllm",
            }
            window = slots + slots // 2
            config = settings(
                root, engine="openai", **more, **{"openai.base_urls": f"[{url}]", "generation.window": window}
            )
            directory = Path(tempfile.mkdtemp(dir=root))
            pairs = stage.run(config, StageContext("synthesis", directory, 1, {DOCUMENTS: corpus}))["pairs"]
        else:
            pairs = asyncio.run(round_by_round(url, corpus, root / "tokenizer"))
        seconds = time.monotonic() - start
        with urllib.request.urlopen(url.replace("/v1", "/statistics")) as answer:
            return {"seconds": seconds, "pairs": pairs, **json.load(answer)}
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help="chains, throughput, memory; default: all")
    parser.add_argument(
        "--texts",
        type=int,
        nargs="+",
        default=[10_000, 100_000],
        help="corpus sizes; throughput uses the first",
    )
    parser.add_argument("--slots", type=int, default=64, help="slots of the simulated server")
    parser.add_argument(
        "--pace", type=float, default=2.0, help="slowdown relative to an H100, to hide the overhead of this machine"
    )
    parser.add_argument("--chain-texts", type=int, default=512, help="number of texts for chains")
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    add_option(parser)
    arguments = parser.parse_args()
    figures = Figures()
    parts = arguments.parts or ["chains", "throughput", "memory"]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root = Path(name)
        write_tokenizer(root / "tokenizer")
        if "chains" in parts:
            write_corpus(root / f"corpus-{arguments.chain_texts}", root / "tokenizer", arguments.chain_texts)
            print(f"{arguments.chain_texts} texts in chains of 2 on {arguments.slots} slots")
            names = ("rounds, s", "chains, s", "ratio", "busy, rounds", "busy, chains")
            print(f"{'prefix cache':<16}" + "".join(f"{name:>14}" for name in names))
            for cached, label in ((arguments.slots, f"{arguments.slots} chains"), (0, "none")):
                sizes = (arguments.chain_texts, arguments.slots, cached, arguments.pace)
                rounds, chains = (measure_chains(root, *sizes, ours) for ours in (False, True))
                assert rounds["pairs"] == chains["pairs"], (rounds, chains)
                print(
                    f"{label:<16}{rounds['seconds']:>14.2f}{chains['seconds']:>14.2f}"
                    f"{rounds['seconds'] / chains['seconds']:>14.2f}{rounds['busy']:>14.1%}{chains['busy']:>14.1%}"
                )
                gain = rounds["seconds"] / chains["seconds"]
                figures.add(f"chains against rounds, prefix cache: {label}", gain, "x as fast", 1)
                figures.add(f"server slots busy, prefix cache: {label}", 100 * chains["busy"], "%")
        if "throughput" in parts or "memory" in parts:
            print(f"\none process, instant engine, texts of about {TEXT_TOKENS} tokens")
            print(f"{'texts':>10}{'seconds':>10}{'texts/s':>10}{'processor s':>13}{'peak MiB':>10}{'pairs':>12}")
            for texts in arguments.texts if "memory" in parts else arguments.texts[:1]:
                result = measure_instant(root, texts)
                print(
                    f"{texts:>10,}{result['seconds']:>10.1f}{texts / result['seconds']:>10,.0f}"
                    f"{result['processor']:>13.1f}{result['peak_mib']:>10.0f}{result['counts']['pairs']:>12,}"
                )
                figures.add(f"{texts:,} texts, instant engine", texts / result["processor"], "per CPU-s")
                figures.add(f"{texts:,} texts: peak memory", result["peak_mib"], "MiB")
    figures.write(arguments.json)


if __name__ == "__main__":
    main()
