"""Kills synthesis at random against a dummy server; prints what was lost, doubled and asked for again.

The tool under test is a real process that is killed with SIGKILL, children included, and started again with the same
command until its output is complete; then everything begins anew, until all kills are spent. The server's own log and
the output are compared: lost documents, doubled documents, and answers that had been sent completely and were asked for
again. SIGKILL leaves the page cache alone: this is not a test of power failures.

    python tools/bench_exactly_once.py                                  # 200 kills of megatron-ipt
    python tools/bench_exactly_once.py --datatrove-python ENV/bin/python --vllm-python ENV/bin/python --model FOLDER

datatrove's inference runner is killed in the same way against the same server. vLLM's batch runner holds its engine in
its own process, so it gets a real model and fewer kills (``--vllm-kills``). Both are skipped, with the reason, where
they cannot be imported.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figures, add_option  # noqa: E402
from exactly_once.accounts import PHASES  # noqa: E402
from exactly_once.kills import DummyServer, Killer, Result  # noqa: E402
from exactly_once.runners import Datatrove, MegatronIPT, Runner, Unavailable  # noqa: E402
from exactly_once.vllm_batch import VLLMBatch  # noqa: E402

TOOLS = ("megatron-ipt", "datatrove", "vllm")
SENTENCES = (
    "The ferry left the harbour before dawn with salt, rope and letters for the islands.",
    "A clerk counted the crates twice and wrote the sum into a ledger bound in green cloth.",
    "Snow had closed the pass, so the mail went round by the lake and came three days late.",
    "Two surveyors measured the valley in the spring and found the old map wrong by a mile.",
    "The miller paid his rent in flour until the bridge was rebuilt and coins came back.",
    "In the evening the lamps along the quay were lit one after another from a small boat.",
)


def write_corpus(folder: Path, documents: int, choose: random.Random) -> frozenset[str]:
    """Writes documents of a few sentences as JSON Lines; returns their ids, with which their texts begin."""
    folder.mkdir(parents=True)
    ids = [f"doc-{number:06d}" for number in range(documents)]
    with open(folder / "documents.jsonl", "w") as stream:
        for name in ids:
            text = f"{name}: {' '.join(choose.sample(SENTENCES, choose.randint(2, 5)))}"
            stream.write(json.dumps({"id": name, "text": text}) + "\n")
    return frozenset(ids)


def write_tokenizer(folder: Path) -> None:
    """Writes a small byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def measure(name: str, server: DummyServer, corpus: frozenset[str], arguments: argparse.Namespace) -> Result:
    """The result of one tool.

    Raises:
        Unavailable: it cannot be run here.
    """
    root = Path(arguments.root)
    if name == "vllm":
        if arguments.model is None:
            raise Unavailable("vLLM's batch runner needs --model")
        batch = VLLMBatch(root, arguments.vllm_python, arguments.model, arguments.vllm_requests)
        return batch.measure(arguments.vllm_kills, arguments.seed, show)
    documents, sizes = root / "corpus", (arguments.window, arguments.unit)
    runner: Runner
    if name == "datatrove":
        runner = Datatrove(root, documents, server.url, arguments.datatrove_python, *sizes)
    else:
        runner = MegatronIPT(root, documents, root / "tokenizer", server.url, *sizes)
    log = Path(arguments.log or root / "tool.log")
    killer = Killer(runner, server, corpus, arguments.seed, arguments.longest, log)
    result = killer.undisturbed()
    killer.kill(arguments.kills, result, show)
    return result


def show(result: Result) -> None:
    """The progress, on stderr."""
    print(f"{result.name}: {result.all_kills} kills, {result.runs} complete runs", file=sys.stderr, flush=True)


def table(results: list[Result]) -> str:
    """All results as a Markdown table, a column per tool."""
    rows: list[tuple[str, Iterable[object]]] = [
        ("kills", [result.all_kills for result in results]),
        *((f"... {phase}", [result.kills[phase] for result in results]) for phase in PHASES),
        ("... that left a half-written file", [told(result, result.half_written) for result in results]),
        ("complete runs", [result.runs for result in results]),
        ("runs that could not be resumed", [len(result.stuck) for result in results]),
        ("requests", [f"{result.counts.requests:,}" for result in results]),
        ("documents lost", [result.counts.lost for result in results]),
        ("documents doubled", [result.counts.doubled for result in results]),
        ("answers asked for again", [f"{result.counts.asked_again:,}" for result in results]),
        ("... most after one kill", [result.counts.most_per_kill for result in results]),
        ("... documents in flight", [result.in_flight for result in results]),
        ("... beyond what was in flight", [result.counts.beyond_flight for result in results]),
        ("... that were on disk", [told(result, result.counts.kept_asked_again) for result in results]),
        ("... oldest at the kill, s", [age(result.counts.oldest) for result in results]),
        ("output as without kills", [verdict(result) for result in results]),
        ("seconds without kills", [f"{result.undisturbed:.1f}" for result in results]),
        ("seconds, all runs", [f"{result.seconds:.0f}" for result in results]),
    ]
    lines = [f"| | {' | '.join(result.name for result in results)} |", f"|---|{'--:|' * len(results)}"]
    lines += [f"| {label} | {' | '.join(str(value) for value in values)} |" for label, values in rows]
    return "\n".join(lines)


def told(result: Result, count: int) -> str:
    """A count that comes from reading the tool's own files, which is not done for every tool."""
    return str(count) if result.tells_kept else "not read"


def age(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def verdict(result: Result) -> str:
    """How the outputs compare with the one of the undisturbed run."""
    if not result.compared:
        return "not compared"
    if result.equal == result.runs:
        return "same bytes"
    if result.equal + result.equal_but_order == result.runs:
        return "same lines"
    return f"same lines in {result.equal + result.equal_but_order} of {result.runs} runs"


def add_figures(figures: Figures, result: Result) -> None:
    """The headline counts, for the page of all benchmarks."""
    what = f"{result.name}, {result.all_kills} kills"
    figures.add(f"{what}: documents lost", result.counts.lost, "documents")
    figures.add(f"{what}: documents doubled", result.counts.doubled, "documents")
    figures.add(f"{what}: answers asked for again", result.counts.asked_again, "answers")
    figures.add(f"{what}: of these not in flight", result.counts.beyond_flight, "answers")


def failed(result: Result) -> bool:
    """Whether the result contradicts "exactly once"."""
    counts = result.counts
    wrong = counts.lost or counts.doubled or counts.beyond_flight or counts.kept_asked_again or result.stuck
    return bool(wrong) or result.equal < result.runs


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills per tool")
    parser.add_argument("--documents", type=int, default=240, help="documents of the corpus")
    parser.add_argument("--unit", type=int, default=40, help="documents per shard or chunk")
    parser.add_argument("--window", type=int, default=16, help="requests in flight")
    parser.add_argument("--latency", type=float, default=0.08, help="mean seconds until the server answers")
    parser.add_argument("--longest", type=float, default=3.0, help="kills by time come within this many seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the kills and the corpus")
    parser.add_argument("--only", nargs="+", choices=TOOLS, help="these tools only")
    parser.add_argument("--datatrove-python", default=sys.executable, help="a Python that has datatrove")
    parser.add_argument("--vllm-python", default=sys.executable, help="a Python that has vLLM")
    parser.add_argument("--model", help="folder of a small chat model for vLLM's batch runner")
    parser.add_argument("--vllm-kills", type=int, default=5, help="kills of vLLM's batch runner")
    parser.add_argument("--vllm-requests", type=int, default=64, help="requests in its batch")
    parser.add_argument("--folder", help="working folder; default: a temporary one")
    parser.add_argument("--log", help="file for what the tool prints, overwritten by every process")
    parser.add_argument("--results", metavar="FILE", help="write everything that was counted to this JSON file")
    add_option(parser)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as arguments.root:
        root = Path(arguments.root)
        corpus = write_corpus(root / "corpus", arguments.documents, random.Random(arguments.seed))
        write_tokenizer(root / "tokenizer")
        with DummyServer(root / "tokenizer", arguments.latency) as server:
            for name in arguments.only or TOOLS:
                try:
                    results.append(measure(name, server, corpus, arguments))
                except Unavailable as reason:
                    print(f"{name} skipped: {reason}")
    if results:
        print(table(results))
    for result in results:
        for message in dict.fromkeys(result.stuck):
            print(f"{result.name} could not be resumed: {message}")
    if arguments.results:
        records = [asdict(result) for result in results]
        Path(arguments.results).write_text(json.dumps(records, indent=2) + "\n")
    figures = Figures()
    for result in results:
        add_figures(figures, result)
    figures.write(arguments.json)
    ours = [result for result in results if result.name == MegatronIPT.name]
    return int(any(failed(result) for result in ours))


if __name__ == "__main__":
    sys.exit(main())
