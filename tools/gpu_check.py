"""Checks training on this machine's GPU: precisions, attention kernels, resume, and the tests marked gpu; writes JSON.

Usage: python tools/gpu_check.py RESULTS.json [--minutes 8] [--steps 200] [--tokens-per-step 16384]

Each variant trains in a separate process on the same random tokens from the same weights. Variants that are rejected or
fail are recorded with their message, and those that do not fit in the time limit as "no time left". For each variant:
TFLOP/s and MFU (formulas: docs/training.md), memory, tokens/s, and the maximum difference of the loss from bf16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_training import write_dataset

VARIANTS: dict[str, tuple[str, ...]] = {
    "bf16": ("precision=bf16",),
    "bf16, torch attention": ("precision=bf16", "model.attention=torch"),
    "fp8 delayed": ("precision=fp8", "fp8.recipe=delayed"),
    "fp8 delayed, fp8_param": ("precision=fp8", "fp8.recipe=delayed", "fp8.fp8_param=true"),
    "fp8 tensorwise": ("precision=fp8", "fp8.recipe=tensorwise"),
    "fp8 tensorwise, first and last in bf16": (
        "precision=fp8", "fp8.recipe=tensorwise", "fp8.first_last_layers_bf16=true",
    ),
    "fp8 blockwise": ("precision=fp8", "fp8.recipe=blockwise", "fp8.format=e4m3"),
    "fp8 mxfp8": ("precision=fp8", "fp8.recipe=mxfp8", "fp8.format=e4m3"),
    "bf16, full recompute": ("precision=bf16", "recompute.granularity=full"),
    "bf16, optimizer on the host": ("precision=bf16", "optimizer.offload_fraction=1.0"),
}  # fmt: skip
PRESETS = {"instructlm_500m": 1.0, "instructlm_1.3b": 0.2}
"""Presets and the fraction of --steps to train."""

PROGRAM = """
import sys
from pathlib import Path
from megatron_ipt.config import load
from megatron_ipt.errors import UserError
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.stage import run
try:
    run(load(TrainingConfig, None, sys.argv[3:]), StageContext("training", Path(sys.argv[1]), 1,
        {"token data": Path(sys.argv[2])}))
except UserError as error:
    sys.exit(f"rejected: {error}")
"""


def train(directory: Path, tokens: Path, overrides: list[str], seconds: float) -> str | None:
    """Trains; returns the error message, or None."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(directory), str(tokens), *overrides],
            capture_output=True, text=True, timeout=max(seconds, 1), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no time left"
    lines = result.stderr.strip().splitlines()
    return None if result.returncode == 0 else (lines[-1] if lines else f"status {result.returncode}")


def records(directory: Path) -> list[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    return [record for record in map(json.loads, path.read_text().splitlines()) if "loss" in record]


def figures(directory: Path) -> dict[str, Any]:
    """Medians of the second half of a run."""
    lines = records(directory)
    later = lines[len(lines) // 2 :]
    middle = {
        name: sorted(line[name] for line in later)[len(later) // 2]
        for name in ("tokens_per_second", "tflops", "mfu", "memory_gb")
        if later and later[0].get(name) is not None
    }
    return {"steps": len(lines), "loss": lines[-1]["loss"] if lines else None, **middle}


def largest_difference(one: Path, other: Path) -> float | None:
    first, second = ({line["step"]: line["loss"] for line in records(path)} for path in (one, other))
    shared = first.keys() & second.keys()
    return max((abs(first[step] - second[step]) for step in shared), default=None)


def check_resume(folder: Path, tokens: Path, overrides: list[str], end: float) -> dict[str, Any]:
    """Trains twelve steps without interruption, and again with a stop in the middle: losses must be equal."""
    steps = ["checkpoint.save_interval=6", "checkpoint.keep_last=0", "schedule.lr_decay_iters=12"]
    uninterrupted, resumed = folder / "uninterrupted", folder / "resumed"
    problem = train(uninterrupted, tokens, [*overrides, *steps, "steps=12"], end - time.monotonic())
    problem = problem or train(resumed, tokens, [*overrides, *steps, "steps=6"], end - time.monotonic())
    problem = problem or train(resumed, tokens, [*overrides, *steps, "steps=12"], end - time.monotonic())
    difference = None if problem else largest_difference(uninterrupted, resumed)
    shutil.rmtree(uninterrupted, ignore_errors=True)
    shutil.rmtree(resumed, ignore_errors=True)
    return {"problem": problem, "largest_loss_difference": difference}


def machine() -> dict[str, Any]:
    import torch

    from megatron_ipt.training.model.precision import foreign_apex, have_transformer_engine, transformer_engine_version

    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "cuda": torch.version.cuda}
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["transformer_engine"] = transformer_engine_version() if have_transformer_engine() else None
    found["foreign_apex"] = foreign_apex()
    return found


def run_gpu_tests(seconds: float) -> str:
    repository = Path(__file__).resolve().parent.parent
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"],
            cwd=repository, capture_output=True, text=True, timeout=max(seconds, 1), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no time left"
    return result.stdout.strip().splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens-per-step", type=int, default=16384)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "training": {}, "resume": {}}
    if results["machine"]["gpu"] is None:
        print("gpu_check: no GPU found; nothing was run", file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        tokens = write_dataset(folder / "tokens", 1 << 24, vocabulary=32000)
        common = [f"global_batch_size={arguments.tokens_per_step // 2048}", "micro_batch_size=4",
                  "logging.tensorboard=false", "checkpoint.save_interval=100000"]  # fmt: skip
        results["gpu_tests"] = run_gpu_tests(min(120.0, end - time.monotonic()))
        for recipe in ("bf16", "fp8 delayed", "fp8 tensorwise"):
            overrides = ["model.preset=tiny", "model.num_layers=4", "micro_batch_size=4", "global_batch_size=4",
                         "logging.tensorboard=false", *VARIANTS[recipe]]  # fmt: skip
            results["resume"][recipe] = check_resume(folder, tokens, overrides, end)
        for preset, share in PRESETS.items():
            steps = max(10, int(arguments.steps * share))
            for variant, overrides in VARIANTS.items():
                directory = folder / preset / variant.replace(" ", "-")
                settings = [*common, f"model.preset={preset}", f"steps={steps}", *overrides]
                problem = train(directory, tokens, settings, end - time.monotonic())
                row = {"problem": problem, **figures(directory)}
                row["largest_loss_difference_from_bf16"] = largest_difference(folder / preset / "bf16", directory)
                results["training"].setdefault(preset, {})[variant] = row
                shutil.rmtree(directory / "checkpoints", ignore_errors=True)
                arguments.results.write_text(json.dumps(results, indent=2) + "\n")
                print(preset, variant, row, flush=True)
    arguments.results.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
