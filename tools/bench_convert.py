#!/usr/bin/env python
"""Benchmarks speed and memory of conversions, relative to ``cp`` of the same bytes on the same disk.

python tools/bench_convert.py --preset instructlm_500m --vocab-size 32000
python tools/bench_convert.py --preset llama3_8b --vocab-size 128256 --repeats 1

Creates a Hugging Face folder with random bf16 weights, then alternates between cp, cp with fsync, import and export. A
conversion syncs its files to disk before it finishes, so cp with fsync is the fair comparison; the target refers to
plain cp. Models that fit into memory are copied and converted twice and the second time counts: in a virtual machine,
memory that the host must allocate first costs several times the copying. Memory is the peak of the process above its
memory after imports.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_table import Figures, add_option

_BOUND = 2.5
_MEMORY_BOUND = 3.0
_FITS = 4_000_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="instructlm_500m")
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--max-shard-size", default="5GB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="working folder; needs three times the size of the model")
    add_option(parser)
    parser.add_argument("--twice", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child, arguments.workers, arguments.max_shard_size, arguments.twice)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-convert-", dir=arguments.folder) as folder:
        _report(arguments, Path(folder))
    return 0


def _report(arguments: argparse.Namespace, folder: Path) -> None:
    source = folder / "model"
    largest = make_model(source, arguments.preset, arguments.vocab_size, arguments.max_shard_size)
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"{arguments.preset}, vocabulary {arguments.vocab_size:,}: {size / 1e9:.2f} GB in bf16, largest tensor "
          f"{largest / 1e6:,.0f} MB, {arguments.workers} workers")  # fmt: skip
    twice = size < _FITS
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("cp", "cp and fsync", "import", "export")}
    for _ in range(arguments.repeats):
        rows["cp"].append(_copy(source, folder / "copy", twice, flush=False))
        rows["cp and fsync"].append(_copy(source, folder / "copy", twice, flush=True))
        rows["import"].append(_convert(arguments, "import", source, folder / "checkpoints", twice))
        rows["export"].append(_convert(arguments, "export", folder / "checkpoints", folder / "exported", twice))
        shutil.rmtree(folder / "checkpoints")
        shutil.rmtree(folder / "exported")
    median = {name: {key: statistics.median(row[key] for row in found) for key in found[0]}
              for name, found in rows.items()}  # fmt: skip
    print(f"{'':<14}{'start-up, CPU s':>16}{'work, s':>10}{'/ cp':>8}{'/ cp+fsync':>12}{'CPU s':>8}"
          f"{'peak, MB':>10}{'/ largest':>11}")  # fmt: skip
    for name, row in median.items():
        ratios = [row["seconds"] / median[other]["seconds"] for other in ("cp", "cp and fsync")]
        line = f"{name:<14}{row.get('start', 0):>16.2f}{row['seconds']:>10.2f}{ratios[0]:>8.2f}{ratios[1]:>12.2f}"
        if "peak" in row:
            line += f"{row['cpu']:>8.2f}{row['peak'] / 1e6:>10,.0f}{row['peak'] / largest:>11.2f}"
        print(line)
    figures = Figures()
    for name in ("import", "export"):
        speed, memory = median[name]["seconds"] / median["cp"]["seconds"], median[name]["peak"] / largest
        verdict = "within" if speed <= _BOUND and memory <= _MEMORY_BOUND else "ABOVE"
        print(f"{name}: {verdict} {_BOUND} x cp and {_MEMORY_BOUND:g} x the largest tensor")
        figures.add(f"{name} of {arguments.preset}: time against cp", speed, "x", _BOUND, at_most=True)
        figures.add(f"{name}: peak memory against the largest tensor", memory, "x", _MEMORY_BOUND, at_most=True)
        figures.add(f"{name}: start-up", median[name]["start"], "CPU-s")
    figures.write(arguments.json)


def make_model(folder: Path, preset: str, vocab_size: int, max_shard_size: str) -> int:
    """Writes a Hugging Face folder with random weights; returns the size of its largest tensor in bytes."""
    import torch

    from megatron_ipt.convert.formats.safetensors_writer import (
        TensorPlan,
        file_names,
        header,
        pack,
        parse_size,
        write_index,
    )
    from megatron_ipt.convert.formats.stored_tensor import as_bytes
    from megatron_ipt.files import write_json
    from megatron_ipt.models.hugging_face_config import TokenIds, hugging_face_config
    from megatron_ipt.models.presets import resolve_shape
    from megatron_ipt.models.tensor_mapping import hugging_face_shapes

    folder.mkdir()
    shape = resolve_shape({"preset": preset})
    plans = [TensorPlan(name, size, torch.bfloat16) for name, size in hugging_face_shapes(shape, vocab_size)]
    noise = memoryview(as_bytes(torch.randn(1 << 22).mul(0.02).bfloat16()))
    files = pack(plans, parse_size(max_shard_size))
    for name, members in zip(file_names(len(files)), files):
        with open(folder / name, "wb") as stream:
            stream.write(header(members))
            left = sum(plan.size for plan in members)
            while left:
                left -= stream.write(noise[: min(left, len(noise))])
            os.fsync(stream.fileno())
    if len(files) > 1:
        write_index(folder, files)
    write_json(folder / "config.json", hugging_face_config(shape, vocab_size, TokenIds(1, 2, None), "bfloat16"))
    return max(plan.size for plan in plans)


def _copy(source: Path, target: Path, twice: bool, flush: bool) -> dict[str, float]:
    for _ in range(1 + twice):
        shutil.rmtree(target, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run(["cp", "-r", str(source), str(target)], check=True)
        if flush:
            subprocess.run(["sync", *map(str, target.iterdir())], check=True)
        seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return {"seconds": seconds}


def _convert(arguments: argparse.Namespace, kind: str, source: Path, target: Path, twice: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, str(source), str(target)]
    options = ["--workers", str(arguments.workers), "--max-shard-size", arguments.max_shard_size]
    options += ["--twice"] if twice else []
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(kind: str, source: str, target: str, workers: int, max_shard_size: str, twice: bool) -> None:
    from megatron_ipt.convert.commands import export_model, import_model

    logging.disable(logging.WARNING)
    if kind == "import":
        # Imported here because only the import needs it, at its end; counts as start-up.
        import torch.distributed.checkpoint.filesystem  # noqa: F401
    started = time.process_time()
    Path("/proc/self/clear_refs").write_text("5")
    base = _peak()
    for _ in range(1 + twice):
        shutil.rmtree(target, ignore_errors=True)
        before, start = time.process_time(), time.perf_counter()
        if kind == "import":
            import_model(source, target, workers=workers)
        else:
            export_model(source, target, workers=workers, max_shard_size=max_shard_size)
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
    print(json.dumps({"start": started, "seconds": seconds, "cpu": cpu, "peak": _peak() - base}))


def _peak() -> int:
    """Peak resident memory since the last reset, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    sys.exit(main())
