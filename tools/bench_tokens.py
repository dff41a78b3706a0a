#!/usr/bin/env python3
"""Benchmarks speed and memory of tokenization against the tokenizer libraries and other installed tools.

Every row is a separate process, measured by the operating system: CPU-seconds including its workers, and peak memory of
the largest process. A run on a few lines measures start-up; the marginal cost is what a large run takes beyond that,
the minimum of several runs, because other load only adds time. All rows read the same corpus, so compare values only
within one table. The limit is the fast tokenizer library alone: lines parsed with orjson, encoded in batches of 8 MB,
and discarded. With several workers, it is that many such processes in parallel, because they slow each other down.

    python tools/bench_tokens.py                    # 50 MB of text and code installed with Python
    python tools/bench_tokens.py --megabytes 200 --workers 1 2
    python tools/bench_tokens.py --input corpus.jsonl --tokenizer-model tokenizer.model
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmark_table import Figures, add_option

DOCUMENT_CHARACTERS = 3000
SMALL_LINES = 20
RUNS = 2
INDEX_DOCUMENTS = 10_000_000
MEGATRON_LOOP = "Megatron-LM's loop"


class Run(NamedTuple):
    """Resources used by a process and its children."""

    cpu: float
    megabytes: float
    tokens: int


class Row(NamedTuple):
    """One row of the table: marginal tokens per CPU-second, start-up CPU-seconds, peak memory of a process."""

    name: str
    speed: float
    start: float
    megabytes: float


def main() -> None:
    arguments = _parse()
    if arguments.row:
        ROWS[arguments.row](arguments.input, arguments.tokenizer_model)
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(arguments.input or _make_corpus(Path(folder) / "corpus.jsonl", arguments.megabytes))
        model = arguments.tokenizer_model or _default_tokenizer(Path(folder), corpus)
        print(f"{corpus.stat().st_size / 1e6:,.0f} MB of JSON Lines, tokenizer {Path(model).name}\n")
        small, part = (_head(corpus, Path(folder) / f"{n}.jsonl", n) for n in (SMALL_LINES, arguments.slow_lines))
        rows: list[Row] = []
        for workers in arguments.workers:
            of = f"{workers} process{'es' if workers > 1 else ''}"
            rows.append(_measure_row(f"gigatoken alone, {of} (limit)", "limit", small, corpus, model, workers))
            for engine, text in (("gigatoken", corpus), ("sentencepiece", part)):
                name = f"megatron-ipt, {engine}, {of}"
                rows.append(_measure_tool(name, engine, workers, small, text, model, Path(folder)))
        rows.append(_measure_row("sentencepiece alone", "sentencepiece", small, part, model))
        for module, name in (("megatron.core", MEGATRON_LOOP), ("datatrove", "datatrove")):
            if _is_installed(module):
                rows.append(_measure_row(name, module, small, part, model))
            else:
                print(f"{name}: {module} is not installed, skipped")
        figures = Figures()
        _report(rows, figures)
        _measure_index(Path(folder) / "many", arguments.documents, figures)
        figures.write(arguments.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="JSON Lines with a text field; default: generated from installed files")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the generated corpus")
    parser.add_argument("--tokenizer-model", help="a .model file; default: Mistral's, from mistral_common, or trained")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="numbers of processes to measure")
    parser.add_argument("--slow-lines", type=int, default=8000, help="number of lines for slow tokenizers")
    parser.add_argument("--documents", type=int, default=INDEX_DOCUMENTS, help="number of documents in the index")
    add_option(parser)
    parser.add_argument("--row", choices=sorted(ROWS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_corpus(path: Path, megabytes: int) -> Path:
    """Text and code of files installed with Python, in documents of 3,000 characters; lines are shuffled on reuse."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = sorted(
        {file for root in roots for file in root.rglob("*") if file.suffix in (".py", ".rst", ".txt", ".md")}
    )
    rng = random.Random(0)
    rng.shuffle(files)
    size = 0
    with open(path, "w") as stream:
        for turn in itertools.count():
            for file in files:
                text = file.read_text(errors="ignore")
                if turn:
                    lines = text.splitlines(keepends=True)
                    rng.shuffle(lines)
                    text = "".join(lines)
                for start in range(0, len(text), DOCUMENT_CHARACTERS):
                    line = json.dumps({"text": text[start : start + DOCUMENT_CHARACTERS]}) + "\n"
                    size += stream.write(line)
                if size >= megabytes * 1_000_000:
                    return path
    raise AssertionError("unreachable")


def _default_tokenizer(folder: Path, corpus: Path) -> str:
    found = importlib.util.find_spec("mistral_common")
    if found and found.origin:
        return str(Path(found.origin).parent / "data" / "tokenizer.model.v1")
    from megatron_ipt.tokens.tokenizer.sentencepiece_model import train_sentencepiece

    texts = (text for text in itertools.islice(_texts(str(corpus)), 3000))
    train_sentencepiece((line for text in texts for line in text.splitlines()), 8000).save_model(folder / "trained")
    return str(folder / "trained" / "tokenizer.model")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _head(corpus: Path, path: Path, lines: int) -> Path:
    with open(corpus, "rb") as stream:
        path.write_bytes(b"".join(itertools.islice(stream, lines)))
    return path


def _run(command: list[str], at_once: int = 1) -> Run:
    """Runs ``command``, whose last output line is the number of tokens; sums over ``at_once`` parallel processes."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(at_once)]
    cpu, megabytes, tokens = 0.0, 0.0, 0
    for process in processes:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"exit status {process.returncode}: {' '.join(command)}")
        tokens += int(output.strip().splitlines()[-1])
        cpu += usage.ru_utime + usage.ru_stime
        megabytes = max(megabytes, usage.ru_maxrss / 1024)
    return Run(cpu, megabytes, tokens)


def _fastest(command: list[str], at_once: int = 1) -> Run:
    return min((_run(command, at_once) for _ in range(RUNS)), key=lambda run: run.cpu)


def _row(name: str, small: Run, large: Run) -> Row:
    speed = (large.tokens - small.tokens) / max(large.cpu - small.cpu, 1e-9)
    return Row(name, speed, small.cpu, max(small.megabytes, large.megabytes))


def _measure_row(name: str, row: str, small: Path, large: Path, model: str, at_once: int = 1) -> Row:
    command = [sys.executable, __file__, "--row", row, "--tokenizer-model", model, "--input"]
    return _row(name, _fastest([*command, str(small)], at_once), _fastest([*command, str(large)], at_once))


def _measure_tool(name: str, engine: str, workers: int, small: Path, large: Path, model: str, folder: Path) -> Row:
    # The small run is split into one piece per worker, so that starting all workers counts as start-up.
    program = (
        "import json, sys, io, contextlib; from megatron_ipt.tokens.preprocess import pieces\n"
        "pieces.LEAST_PIECE_BYTES = int(sys.argv[1])\n"
        "from megatron_ipt.tokens.preprocess.arguments import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out: status = main(sys.argv[2:])\n"
        "print(json.loads(out.getvalue())['tokens']); sys.exit(status)"
    )
    small_piece = str(small.stat().st_size // workers + 1)
    command = [
        "--json", "--overwrite", "--append-eod", "--output-prefix", str(folder / "ours"),
        "--tokenizer-type", "SentencePieceTokenizer", "--tokenizer-model", model, "--engine", engine,
        "--workers", str(workers), "--log-interval", str(10**9), "--input",
    ]  # fmt: skip
    start = [sys.executable, "-c", program]
    large_piece = str(32 << 20)
    return _row(
        name,
        _fastest([*start, small_piece, *command, str(small)]),
        _fastest([*start, large_piece, *command, str(large)]),
    )


def _report(rows: list[Row], figures: Figures) -> None:
    print(f"\n{'':<42}{'tokens per CPU-s':>18}{'of limit':>10}{'start-up CPU-s':>16}{'peak MB':>10}")
    limit = rows[0].speed
    for row in rows:
        if row.name.endswith("(limit)"):
            limit = row.speed
        share = row.speed / limit
        print(f"{row.name:<42}{row.speed:>18,.0f}{share:>10.1%}{row.start:>16.2f}{row.megabytes:>10,.0f}")
        figures.add(f"tokens, {row.name}", row.speed, "per CPU-s")
        if row.name.startswith("megatron-ipt"):
            figures.add(f"tokens, {row.name}: relative to the limit", share, "x")
            for other in rows:
                if other.name == MEGATRON_LOOP:
                    figures.add(f"tokens, {row.name} against {other.name}", row.speed / other.speed, "x")
            figures.add(f"tokens, {row.name}: peak memory", row.megabytes, "MB")


def _measure_index(prefix: Path, documents: int, figures: Figures) -> None:
    command = [sys.executable, __file__, "--row", "index", "--input", str(prefix), "--tokenizer-model", str(documents)]
    run = _run(command)
    print(
        f"\nindex of {documents:,} documents ({run.tokens:,} tokens) written and verified: {run.cpu:.1f} CPU-s, "
        f"{run.megabytes:,.0f} MB"
    )
    figures.add(f"index of {documents:,} documents written and verified", run.cpu, "CPU-s")
    figures.add(f"index of {documents:,} documents: peak memory", run.megabytes, "MB")


def _texts(path: str) -> Iterator[str]:
    import orjson

    with open(path, "rb") as stream:
        for line in stream:
            yield orjson.loads(line)["text"]


def _limit(path: str, model: str) -> None:
    """Tokenizes with orjson and gigatoken, in batches of 8 MB."""
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer.from_sentencepiece(model)
    tokens = size = 0
    batch: list[str] = []
    for text in itertools.chain(_texts(path), [None]):
        if text is not None:
            batch.append(text)
            size += len(text)
        if batch and (text is None or size >= 8_000_000):
            layout: Any = tokenizer.encode_batch(batch, parallel=False).layout
            tokens += len(np.asarray(layout.content.data))
            batch, size = [], 0
    print(tokens)


def _sentencepiece(path: str, model: str) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    print(sum(len(ids) for ids in map(processor.encode, _texts(path))))


def _megatron(path: str, model: str) -> None:
    """The loop of Megatron-LM's preprocess_data.py, in one process."""
    import sentencepiece
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    tokens = 0
    with tempfile.TemporaryDirectory() as folder, open(path) as stream:
        builder = IndexedDatasetBuilder(f"{folder}/x.bin", dtype=DType.optimal_dtype(len(processor)))
        for line in stream:
            ids = processor.encode_as_ids(json.loads(line)["text"])
            ids.append(processor.eos_id())
            builder.add_document(ids, [len(ids)])
            tokens += len(ids)
        builder.finalize(f"{folder}/x.idx")
    print(tokens)


def _datatrove(path: str, model: str) -> None:
    """datatrove's Megatron tokenizer, with the tokenizer.json that this package writes for the model."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer

    from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

    with tempfile.TemporaryDirectory() as folder:
        SentencePieceTokenizer.read(model).save(Path(folder) / "tokenizer")
        pipeline = [
            JsonlReader(str(Path(path).parent), glob_pattern=Path(path).name),
            MegatronDocumentTokenizer(f"{folder}/out", tokenizer_name_or_path=f"{folder}/tokenizer/tokenizer.json"),
        ]
        LocalPipelineExecutor(pipeline=pipeline, logging_dir=f"{folder}/log").run()
        print(sum(file.stat().st_size // 2 for file in Path(folder, "out").rglob("*.bin")))


def _index(prefix: str, documents: str) -> None:
    """Writes and verifies documents of four tokens, so that the index dominates the cost."""
    import numpy as np

    from megatron_ipt.tokens.dataset.indexed import IndexedWriter
    from megatron_ipt.tokens.dataset.verify import verify

    batch = 100_000
    tokens, lengths = np.ones(4 * batch, np.uint16), np.full(batch, 4, np.int32)
    with IndexedWriter(prefix, np.uint16) as writer:
        for start in range(0, int(documents), batch):
            count = min(batch, int(documents) - start)
            writer.add(tokens[: 4 * count], lengths[:count])
    found = verify(prefix, vocab_size=2)
    if found["problems"] or found["documents"] != int(documents):
        raise SystemExit(f"problems: {found}")
    print(found["tokens"])


ROWS = {
    "limit": _limit,
    "sentencepiece": _sentencepiece,
    "megatron.core": _megatron,
    "datatrove": _datatrove,
    "index": _index,
}


if __name__ == "__main__":
    main()
