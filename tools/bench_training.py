"""Benchmarks training on this machine; each measurement alternates with its reference.

Usage: python tools/bench_training.py [speed|loop|save|start|data] [--sizes 10 50] [--precisions fp32] [--seconds 20]

speed  tokens per CPU-second of the training loop against transformers' MistralForCausalLM with torch's AdamW
loop   time per step of the loop against Megatron-Core's bare forward, backward and optimizer step
save   how long saving a checkpoint stalls training, asynchronously and synchronously
start  seconds from the start of the process to the first step of a tiny model
data   batches per second, and the index of a large dataset: time, memory, time to reopen
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from benchmark_table import Figures, add_option

FIGURES = Figures()
SHAPES = {
    10: {"num_layers": 6, "hidden_size": 320, "ffn_hidden_size": 864, "num_attention_heads": 5, "num_query_groups": 5},
    50: {"num_layers": 8, "hidden_size": 640, "ffn_hidden_size": 1728, "num_attention_heads": 10,
         "num_query_groups": 5},
}  # fmt: skip
"""Model shapes by size in millions of parameters, with a vocabulary of 8192."""

VOCABULARY = 8192
TOKENS_PER_STEP = 1024
"""Small, to alternate often: the speed of a shared machine changes from second to second."""


def write_dataset(folder: Path, tokens: int, vocabulary: int = VOCABULARY, document: int = 512) -> Path:
    """Writes output of the stage ``tokens`` with random ids."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(0).integers(3, vocabulary, tokens, dtype=np.uint16)
    ids.tofile(folder / "train.bin")
    write_index(folder / "train.idx", np.full(tokens // document, document, np.int32))
    entry = {"name": "mixed", "prefix": "train", "weight": 1.0, "documents": tokens // document, "tokens": tokens}
    description = {"tokenizer": "none", "vocab_size": vocabulary, "bos_id": 1, "eod_id": 2, "pad_id": 0,
                   "dtype": "uint16", "train": [entry], "valid": [], "test": []}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_index(path: Path, lengths: np.ndarray[Any, np.dtype[np.int32]]) -> None:
    with open(path, "wb") as stream:
        stream.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1))
        lengths.tofile(stream)
        np.concatenate([[0], np.cumsum(lengths.astype(np.int64) * 2)[:-1]]).astype(np.int64).tofile(stream)
        np.arange(len(lengths) + 1, dtype=np.int64).tofile(stream)


def make_trainer(folder: Path, size: int, seq_length: int, precision: str, *more: str) -> Any:
    """A trainer, ready for its first step."""
    from megatron_ipt.config import load
    from megatron_ipt.manifest import StageContext
    from megatron_ipt.stages import TOKENS
    from megatron_ipt.training.config import TrainingConfig
    from megatron_ipt.training.loop.stop import StopRequest
    from megatron_ipt.training.ranks import layout

    batch = TOKENS_PER_STEP // seq_length
    overrides = [f"model.{name}={value}" for name, value in SHAPES[size].items()]
    overrides += [f"model.max_position_embeddings={seq_length}", f"precision={precision}", f"micro_batch_size={batch}"]
    overrides += [f"global_batch_size={batch}", "steps=100000", "logging.tensorboard=false", *more]
    config = load(TrainingConfig, None, overrides)
    layout.start_model_parallel(config)
    tokens = folder / "tokens"
    if not tokens.exists():
        write_dataset(tokens, 1 << 21)
    directory = folder / f"{size}-{seq_length}-{precision}"
    directory.mkdir(exist_ok=True)

    from megatron_ipt.training.loop.trainer import Trainer

    trainer = Trainer(config, StageContext("training", directory, 1, {TOKENS: tokens}), StopRequest())
    # Avoids computing the order of samples for a hundred thousand steps.
    trainer.steps = 1000
    trainer.prepare()
    trainer.metrics = None
    return trainer


def hugging_face_step(trainer: Any, seq_length: int) -> Callable[[], None]:
    """One step of a transformers model of the same shape on the same number of tokens."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    shape = trainer.shape
    config = MistralConfig(
        vocab_size=trainer.padded_vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups, head_dim=shape.kv_channels, sliding_window=None,
        max_position_embeddings=shape.max_position_embeddings, tie_word_embeddings=False,
    )  # fmt: skip
    dtype = torch.float32 if trainer.precision == "fp32" else torch.bfloat16
    model = MistralForCausalLM(config).to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.randint(0, VOCABULARY, (TOKENS_PER_STEP // seq_length, seq_length))

    def step() -> None:
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def bare_step(trainer: Any) -> Callable[[], None]:
    """Megatron-Core's bare forward, backward and optimizer step on one batch."""
    batches = list(trainer.train_batches.at(0, 1))

    def forward_step(remaining: Any, chunk: Any) -> Any:
        batch = next(remaining)
        mask = batch["loss_mask"]
        losses = chunk(batch["tokens"], None, None, labels=batch["labels"])
        return losses, lambda losses: ((losses.float() * mask).sum(), mask.sum().int(), {})

    def step() -> None:
        for chunk in trainer.chunks:
            chunk.zero_grad_buffer()
        trainer.optimizer.zero_grad()
        trainer.forward_backward(
            forward_step_func=forward_step, data_iterator=iter(batches), model=trainer.chunks[0], num_microbatches=1,
            seq_length=trainer.seq_length, micro_batch_size=trainer.config.micro_batch_size, forward_only=False,
        )  # fmt: skip
        trainer.optimizer.step()

    return step


def alternate(steps: dict[str, Callable[[], Any]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of each step, measured alternately, every second round in reverse order, for at least ``seconds`` and
    ``rounds``. With one thread, the time of other processes does not count, but their effect on caches and clock
    frequency does."""
    measured: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end, order = time.monotonic() + seconds, list(steps)
    while time.monotonic() < end or len(measured[order[0]]) < rounds:
        for name in order:
            start = time.process_time()
            steps[name]()
            measured[name].append(time.process_time() - start)
        order.reverse()
    return measured


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median of the ratios per round, because the state of the machine is similar within a round."""
    return float(np.median([one / other for one, other in zip(numerators, denominators)]))


def start_ranks() -> None:
    warnings.simplefilter("ignore")
    from megatron_ipt.training.cpu import cuda_stand_in
    from megatron_ipt.training.ranks import layout

    cuda_stand_in.install()
    layout.start_process_group()


def stop_model_parallel() -> None:
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()


def bench_speed(folder: Path, arguments: argparse.Namespace) -> None:
    start_ranks()
    print(
        f"{'size':>5} {'seq':>5} {'type':>5} {'loop tokens/s':>14} {'transformers':>13} {'ratio':>6} {'rounds':>7}",
        flush=True,
    )
    for size in arguments.sizes:
        for seq_length in (256, 1024):
            for precision in arguments.precisions:
                trainer = make_trainer(folder, size, seq_length, precision)
                steps = {"loop": _loop_step(trainer), "theirs": hugging_face_step(trainer, seq_length)}
                figures = alternate(steps, arguments.seconds, arguments.rounds)
                ours, theirs = (TOKENS_PER_STEP / np.median(figures[name]) for name in ("loop", "theirs"))
                ratio = median_ratio(figures["theirs"], figures["loop"])
                print(
                    f"{size:>4}M {seq_length:>5} {precision:>5} {ours:>14,.0f} {theirs:>13,.0f} {ratio:>6.2f}"
                    f" {len(figures['loop']):>7}",
                    flush=True,
                )
                FIGURES.add(
                    f"training against transformers, {size}M, sequence {seq_length}, {precision}", ratio, "x", 1
                )
                stop_model_parallel()


def _loop_step(trainer: Any) -> Callable[[], None]:
    def step() -> None:
        trainer._train_step()
        trainer._log_step(0.0)

    return step


def bench_loop(folder: Path, arguments: argparse.Namespace) -> None:
    start_ranks()
    for size in arguments.sizes:
        trainer = make_trainer(folder, size, 256, "fp32")
        steps = {"bare": bare_step(trainer), "loop": _loop_step(trainer)}
        figures = alternate(steps, arguments.seconds, arguments.rounds)
        share = median_ratio(figures["loop"], figures["bare"]) - 1
        bare, loop = (float(np.median(figures[name])) for name in ("bare", "loop"))
        print(
            f"{size}M: bare step {bare:.3f} s, loop {loop:.3f} s, {share:+.1%} ({len(figures['loop'])} rounds)",
            flush=True,
        )
        FIGURES.add(f"overhead of the training loop per step, {size}M", 100 * share, "%", 2, at_most=True)
        stop_model_parallel()


def bench_save(folder: Path, arguments: argparse.Namespace) -> None:
    start_ranks()
    for size in arguments.sizes:
        trainer = make_trainer(folder, size, 256, "fp32", "checkpoint.keep_last=1")
        trainer._train_step()
        # In this order: a synchronous save waits for all writes, so that none is pending at the end.
        stalls: dict[str, list[float]] = {"async": [], "sync": []}
        for _ in range(6):
            for name, values in stalls.items():
                trainer._train_step()
                began = time.perf_counter()
                trainer.checkpoints.save(trainer.state, wait=name == "sync")
                stall = time.perf_counter() - began
                while trainer.checkpoints.is_writing():
                    time.sleep(0.01)
                began = time.perf_counter()
                trainer.checkpoints.finish()
                values.append(stall + time.perf_counter() - began)
        # On a busy machine a stall is mostly waiting for a CPU; the minimum shows the cost of saving itself.
        for label, choose in (("median", np.median), ("minimum", np.min)):
            stall_async, stall_sync = (float(choose(values)) for values in stalls.values())
            share = stall_async / stall_sync
            print(f"{size}M, {label}: sync {stall_sync:.2f} s, async {stall_async:.3f} s ({share:.0%})", flush=True)
            FIGURES.add(
                f"stall of an async save relative to sync, {size}M, {label}", 100 * share, "%", 10, at_most=True
            )
        stop_model_parallel()


def bench_start(folder: Path) -> None:
    tokens = write_dataset(folder / "tokens", 1 << 16)
    overrides = ["model.preset=tiny", "steps=1", "micro_batch_size=2", "global_batch_size=2"]
    program = (
        "import sys; from pathlib import Path; from megatron_ipt.config import load;"
        "from megatron_ipt.manifest import StageContext; from megatron_ipt.training.config import TrainingConfig;"
        "from megatron_ipt.training.stage import run;"
        "run(load(TrainingConfig, None, sys.argv[3:]), StageContext('training', Path(sys.argv[1]), 1,"
        "{'token data': Path(sys.argv[2])}))"
    )
    # The counters may include children from before: a shell that replaced itself with this process.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, str(folder / "run"), str(tokens), *overrides], check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    print(f"one step of a tiny model, through the stage: {seconds:.1f} s of CPU, {time.perf_counter() - began:.1f} s")
    FIGURES.add("start to first step, tiny model", seconds, "CPU-s", 15, at_most=True)


def bench_data(folder: Path) -> None:
    start_ranks()
    trainer = make_trainer(folder, 10, 1024, "fp32")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < 3:
        # Data is prepared for a thousand steps.
        count += sum(1 for _ in trainer.train_batches.at(count % 1000, 1))
    rate = count * TOKENS_PER_STEP / (time.perf_counter() - began)
    print(f"batches: {rate:,.0f} tokens/s from one process")
    FIGURES.add("batches from one process", rate, "tokens/s")

    from megatron_ipt.training.config import DataConfig
    from megatron_ipt.training.data.batches import TokenData
    from megatron_ipt.training.data.sample_index import DatasetBuilder

    documents = 10_000_000
    lengths = np.random.default_rng(1).integers(100, 1100, documents, dtype=np.int32)
    large = folder / "large"
    large.mkdir()
    write_index(large / "train.idx", lengths)
    with open(large / "train.bin", "wb") as stream:
        stream.truncate(int(lengths.sum(dtype=np.int64)) * 2)
    entry = {"name": "mixed", "prefix": "train", "documents": documents, "tokens": int(lengths.sum(dtype=np.int64))}
    (large / "dataset.json").write_text(json.dumps({"vocab_size": 32000, "eod_id": 2, "train": [entry]}))
    data = TokenData.read(large)
    for label in ("built", "reopened"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        builder = DatasetBuilder(data, 2048, DataConfig(), 1, folder / "indices")
        builder.train(1000)
        builder.finish()
        seconds, bar = time.perf_counter() - began, {"built": 60, "reopened": 1}[label]
        FIGURES.add(f"index of {documents:,} documents {label}", seconds, "s", bar, at_most=True)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
        print(f"index of {documents:,} documents {label} in {seconds:.2f} s, {memory:+.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "loop", "save", "start", "data"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 50], choices=tuple(SHAPES))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--seconds", type=float, default=20.0, help="minimum seconds per measurement")
    parser.add_argument("--rounds", type=int, default=4, help="minimum rounds per measurement")
    add_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        folder = Path(name)
        if arguments.what == "start":
            bench_start(folder)
        elif arguments.what == "data":
            bench_data(folder)
        else:
            bench = {"speed": bench_speed, "loop": bench_loop, "save": bench_save}[arguments.what]
            bench(folder, arguments)
    FIGURES.write(arguments.json)


if __name__ == "__main__":
    main()
